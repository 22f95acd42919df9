"""The smallest model of each of timm's modules: every cut exact, without hints (optional part: timm)."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroprune.pruning import prune
from neuroprune.tasks.models import load_model

SMALLEST = Path(__file__).parents[2] / "benchmarks" / "results" / "coverage" / "timm_smallest.json"
#: million parameters; the larger ones are measured by benchmarks/coverage.py
LARGEST = 13.0
#: these return their features, so what adds to them stays
FEATURES = {"vit_tiny_patch16_dinov3_qkvb": 0.75}

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="the optional part zoo is not installed"),
]


def names() -> list[str]:
    models = json.loads(SMALLEST.read_text())["models"]
    return sorted(m["name"] for m in models if m["params_m"] <= LARGEST)


@pytest.mark.parametrize("name", names())
def test_the_smallest_of_a_module_is_cut_exactly_without_hints(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoo's own deprecation notices
        model: nn.Module = load_model(f"timm:{name}")
        inputs = torch.randn(1, *model.default_cfg["input_size"])
        result = prune(model, inputs, ratio=0.5, criterion="random")
        assert result.verification.exact
        assert not [r for r in result.refused if r.operator == "verify"]
        before, after = (sum(p.numel() for p in net.parameters()) for net in (model, result.model))
        assert after <= FEATURES.get(name, 0.6) * before
        with torch.no_grad():
            assert result.model.eval()(inputs).shape == model.eval()(inputs).shape
