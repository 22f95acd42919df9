"""What is typed on the command line, as values: constructor arguments, input shapes, names of runs."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from neuroprune.base.errors import UserError


def name_of(model: str) -> str:
    """The last word of a model's spec, as a name for the run."""
    word = model.rpartition(":")[2] or "model"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in word).strip("._-") or "model"


def constructor_arguments(texts: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` texts as keyword arguments; values are read as YAML (8, true, [1, 2], text)."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"cannot read --arg {text}", mend="write --arg NAME=VALUE, e.g. --arg num_classes=10")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of --arg {text}", mend="quote it as in YAML") from error
    return found


def made_up_input(text: str) -> Any:
    """An input tensor of a shape like ``1,3,32,32`` or ``1,16:int64``."""
    shape, _, kind = text.replace("x", ",").partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        sizes = [int(size) for size in shape.split(",")]
        if not isinstance(dtype, torch.dtype) or min(sizes) < 0:
            raise ValueError
    except ValueError:
        raise UserError(f"cannot read --input {text}", mend="write a shape: 1,3,32,32 or 1,16:int64") from None
    return torch.rand(sizes, dtype=dtype) if dtype.is_floating_point else torch.zeros(sizes, dtype=dtype)
