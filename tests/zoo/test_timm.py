"""The smallest model of each of timm's modules: every cut exact, without hints."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo.loading import loaded

from neuroprune.pruning import prune

SMALLEST = Path(__file__).parents[2] / "benchmarks" / "results" / "coverage" / "timm_smallest.json"
#: million parameters; the larger ones are measured by benchmarks/coverage.py
LARGEST = 13.0
#: so many of the smallest are part of every test run, the others of make test-extras
SAMPLE = 20
#: these return their features, so what adds to them stays
FEATURES = {"vit_tiny_patch16_dinov3_qkvb": 0.75}


def names() -> list[Any]:
    models = sorted(json.loads(SMALLEST.read_text())["models"], key=lambda m: (m["params_m"], m["name"]))
    ordered = [m["name"] for m in models if m["params_m"] <= LARGEST]
    return [*ordered[:SAMPLE], *(pytest.param(name, marks=pytest.mark.extras) for name in ordered[SAMPLE:])]


@pytest.mark.parametrize("name", names())
def test_the_smallest_of_a_module_is_cut_exactly_without_hints(name: str) -> None:
    model, inputs = loaded(f"timm:{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoo's own deprecation notices
        result = prune(model, inputs, ratio=0.5, criterion="random")
        assert result.verification.exact
        assert not [r for r in result.refused if r.operator == "verify"]
        before, after = (sum(p.numel() for p in net.parameters()) for net in (model, result.model))
        assert after <= FEATURES.get(name, 0.6) * before
        with torch.no_grad():
            assert result.model.eval()(inputs).shape == model.eval()(inputs).shape
