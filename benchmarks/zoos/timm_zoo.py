"""timm: all its models, and the smallest of each of its modules. Images of each model's own default size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroprune.base.files import read_json
from neuroprune.tasks.compat import prepare_torchvision
from zoos.lazy import unwritten

PACKAGE = "timm"
SETS = ("smallest", "all")
SMALLEST = Path(__file__).resolve().parents[1] / "results" / "coverage" / "timm_smallest.json"


def names(chosen: str) -> list[str]:
    """``smallest``: the fewest parameters in each module, as the committed table says; ``all``: every model."""
    if chosen == "smallest":
        return [row["name"] for row in read_json(SMALLEST)["models"]]
    return [str(name) for name in _timm().list_models()]


def sets_of(name: str) -> list[tuple[str, int | None]]:
    """The sets of the summary that ``name`` belongs to, and how many models each has where that is known."""
    chosen = names("smallest")
    return [("smallest of each timm module", len(chosen)) if name in chosen else ("other timm models", None)]


def build(name: str, lazy: bool = False) -> tuple[nn.Module, Any]:
    timm = _timm()
    torch.manual_seed(0)
    with unwritten(lazy):
        model = timm.create_model(name, pretrained=False).eval()
    config = getattr(model, "pretrained_cfg", None) or model.default_cfg
    return model, torch.randn(1, *config["input_size"])


def classes(name: str) -> int | None:
    return int(_timm().get_pretrained_cfg_value(name, "num_classes") or 1000)


def smallest() -> list[dict[str, Any]]:
    """The member of every module with the fewest parameters; built on the meta device, so nothing is computed."""
    timm = _timm()
    rows = []
    for module in timm.list_modules():
        sizes = {name: _size(timm, name) for name in timm.list_models(module=module)}
        name = min(sizes, key=lambda n: (sizes[n], n))
        rows.append(
            {
                "module": module,
                "name": name,
                "params_m": round(sizes[name] / 1e6, 3),
                "members": len(sizes),
            }
        )
    return rows


def _size(timm: Any, name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def _timm() -> Any:
    prepare_torchvision()
    import timm

    return timm
