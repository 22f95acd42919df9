"""transformers' architectures, tiny and random: no hints, exact or statistics, much gone (optional part)."""

from __future__ import annotations

import copy
import functools
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn
from zoo.tiny_transformers import TRANSFORMERS

from neuroprune.graph.calls import tensors_in
from neuroprune.pruning import PruneResult, apply, prune
from neuroprune.testing import assert_exact

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="the optional part zoo is not installed"
    ),
]


@functools.cache
def cut(name: str, ratio: float) -> tuple[nn.Module, dict[str, Any], PruneResult]:
    model = TRANSFORMERS[name].make()
    inputs = TRANSFORMERS[name].inputs()
    return model, inputs, prune(model, inputs, ratio=ratio, criterion="random")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("ratio", [0.5, 0.3])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_it_is_cut_exactly_without_hints(name: str, ratio: float) -> None:
    model, inputs, result = cut(name, ratio)
    assert type(result.model) is type(model)
    assert result.verification.exact
    assert set(result.verification.groups.values()) <= {"exact", "statistics"}
    assert not [r for r in result.refused if r.operator == "verify"]
    assert_exact(model, result.model, result.plan, inputs)


@pytest.mark.parametrize("ratio", [0.5, 0.3])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_something_substantial_goes(name: str, ratio: float) -> None:
    model, _, result = cut(name, ratio)
    share = 1 - parameters(result.model) / parameters(model)
    assert share >= TRANSFORMERS[name].share * (1 if ratio == 0.5 else 0.5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_cut_network_answers_and_trains(name: str) -> None:
    model, inputs, result = cut(name, 0.5)
    with torch.no_grad():
        before, after = (tensors_in(net(**inputs)) for net in (model, result.model))
    assert [y.shape for y in before] == [y.shape for y in after]
    again = copy.deepcopy(result.model).train()
    sum(y.square().mean() for y in tensors_in(again(**inputs)) if y.is_floating_point()).backward()
    trained = {n for n, p in again.named_parameters() if p.grad is not None}
    reached = copy.deepcopy(model).train()
    sum(y.square().mean() for y in tensors_in(reached(**inputs)) if y.is_floating_point()).backward()
    assert trained == {n for n, p in reached.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_plan_fits_a_fresh_network_and_its_own_config(name: str) -> None:
    """Another constructor, another config object: the plan corrects both."""
    _, inputs, result = cut(name, 0.5)
    fresh = apply(result.plan, TRANSFORMERS[name].make())
    fresh.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        one, two = (tensors_in(net.eval()(**inputs)) for net in (fresh, result.model))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
