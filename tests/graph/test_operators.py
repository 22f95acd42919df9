"""One operator family at a time: which units there are, that cuts are exact, and what is refused and where."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from graph.nets_hostile import HOSTILE, OPEN, Broken, Counting, Routed
from graph.nets_inplace import OPEN_INPLACE
from graph.nets_operators import OPERATORS
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph import Trace, trace
from neuroprune.graph.calls import tensors_in
from neuroprune.pruning import PruneResult, apply, prune
from neuroprune.testing import assert_exact

RATIOS = (0.3, 0.5)
EITHER = OPEN | OPEN_INPLACE
# PyTorch's own notice about a slower kernel; it says nothing about the network
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def split(dimension: str) -> tuple[str, int]:
    tensor, _, dim = dimension.rpartition(".")
    return tensor, int(dim)


def held(found: Trace, dimension: str) -> list[tuple[int, list[list[int]]]]:
    """(units, indices of each unit) of every group that holds this dimension."""
    return [
        (group.size, part.indices.tolist())
        for group in found.groups
        for part in group.slices
        if (part.tensor, part.dim) == split(dimension)
    ]


def unit_counts(found: Trace, dimension: str) -> list[int]:
    return [size for size, _ in held(found, dimension)]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def removed(model: nn.Module, result: PruneResult, dimension: str) -> int:
    """How many indices really went, from the tensors themselves."""
    name, dim = split(dimension)
    gone = tensors(model)[name].shape[dim] - tensors(result.model)[name].shape[dim]
    assert gone == len(result.plan.removed.get(name, {}).get(dim, ()))
    return gone


def calls(inputs: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every example call as (args, kwargs): the reading of example inputs that the README promises."""
    if isinstance(inputs, list):
        return [call for each in inputs for call in calls(each)]
    if isinstance(inputs, dict):
        return [((), inputs)]
    return [(tuple(inputs) if isinstance(inputs, tuple) else (inputs,), {})]


@functools.cache
def traced(name: str) -> Trace:
    torch.manual_seed(0)
    return trace(OPERATORS[name].make(), OPERATORS[name].inputs())


@functools.cache
def cut(name: str, ratio: float) -> tuple[nn.Module, Any, PruneResult]:
    """The dense network, its inputs and the cut, made once for all tests of this file."""
    torch.manual_seed(0)
    model, inputs = OPERATORS[name].make(), OPERATORS[name].inputs()
    return model, inputs, prune(model, inputs, ratio=ratio, criterion="random")


@pytest.mark.parametrize("name", OPERATORS)
def test_the_units_are_those_written_by_hand(name: str) -> None:
    case, found = OPERATORS[name], traced(name)
    for dimension, sizes in case.units.items():
        expected = (sizes,) if isinstance(sizes, int) else sizes
        assert (dimension, sorted(unit_counts(found, dimension))) == (dimension, sorted(expected))
    for dimension, size in case.among.items():
        assert size in unit_counts(found, dimension), (dimension, size, unit_counts(found, dimension))
    for dimension, units in case.footprint.items():
        seen = [sorted(map(sorted, indices)) for _, indices in held(found, dimension)]
        assert sorted(units) in seen, (dimension, seen)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_cut_exactly(name: str, ratio: float) -> None:
    case, (model, inputs, result) = OPERATORS[name], cut(name, ratio)
    assert type(result.model) is type(model)
    assert not [r for r in result.refused if r.operator == "verify"], "the rules let a wrong cut through"
    assert result.verification.exact
    assert_exact(model, result.model, result.plan, inputs)
    if case.statistics is not None:
        assert result.verification.statistics == case.statistics


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", OPERATORS)
def test_enough_is_cut_and_nothing_that_must_stay(name: str, ratio: float) -> None:
    """Something goes wherever the ratio is worth a whole unit; at one half, at least a quarter."""
    case, (model, _, result) = OPERATORS[name], cut(name, ratio)
    for dimension in case.must_shrink:
        tensor, dim = split(dimension)
        sizes = unit_counts(traced(name), dimension)
        enough = tensors(model)[tensor].shape[dim] // 4 if ratio == 0.5 else 1
        if not sizes or max(sizes) * ratio >= 1:
            assert removed(model, result, dimension) >= max(1, enough), dimension
    for dimension in case.stays:
        assert removed(model, result, dimension) == 0, dimension


@pytest.mark.parametrize("name", OPERATORS)
def test_the_dense_network_is_left_as_it_was(name: str) -> None:
    model, _, _ = cut(name, 0.5)
    torch.manual_seed(0)
    fresh = tensors(OPERATORS[name].make())
    assert all(torch.equal(fresh[key], value) for key, value in tensors(model).items())


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_left_trains_and_travels(name: str) -> None:
    model, inputs, result = cut(name, 0.5)
    again = copy.deepcopy(result.model).train()
    loss = torch.zeros(())
    for args, kwargs in calls(inputs):
        outputs = tensors_in(again(*args, **kwargs))
        loss = loss + sum(y.square().mean() for y in outputs if y.is_floating_point())
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in again.parameters())
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name, p in result.model.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize("name", OPERATORS)
def test_the_plan_alone_makes_the_same_network_again(name: str) -> None:
    _, inputs, result = cut(name, 0.5)
    fresh = apply(result.plan, OPERATORS[name].make())
    for key, value in tensors(result.model).items():
        tensors(fresh)[key].data.copy_(value)
    for args, kwargs in calls(inputs):
        one, two = (tensors_in(copy.deepcopy(net).eval()(*args, **kwargs)) for net in (fresh, result.model))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_cut_is_refused_with_its_line(name: str) -> None:
    case = HOSTILE[name]
    model, inputs = case.make(), case.inputs()
    result = prune(model, inputs, criterion="random")
    assert_exact(model, result.model, result.plan, inputs)
    for dimension in case.stays:
        assert removed(model, result, dimension) == 0
        reasons = [r for r in result.refused if (r.parameter, r.dim) == split(dimension)]
        assert reasons, f"{dimension} stays without a reason"
        assert all(r.reason for r in reasons)
        assert any(case.operator in r.operator for r in reasons), reasons
        if case.line:
            assert any(case.line in source_line(r.where) for r in reasons), reasons
    if hasattr(model, "free"):
        assert removed(model, result, "free.weight.0") == 3


def source_line(where: str) -> str:
    file, _, line = where.rpartition(":")
    return Path(file).read_text().splitlines()[int(line) - 1] if file else ""


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", EITHER)
def test_what_may_be_cut_or_refused_is_never_wrong(name: str, ratio: float) -> None:
    model, inputs = (make() for make in EITHER[name])
    result = prune(model, inputs, ratio=ratio, criterion="random")
    assert_exact(model, result.model, result.plan, inputs)
    kept_whole = {r.parameter for r in result.refused}
    assert kept_whole or removed(model, result, "conv.weight.0" if hasattr(model, "conv") else "embed.weight.0")


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (Routed, (2, 6, 4), r"control flow depends on the values(.|\n)*nets_hostile\.py:\d+"),
        (Counting, (2, 3), r"control flow depends on the values(.|\n)*nets_hostile\.py:\d+"),
        (Broken, (2, 3), r"fails on the example inputs in module 'body\.1'(.|\n)*nets_hostile\.py:\d+"),
    ],
)
def test_a_network_that_cannot_be_traced_is_a_clear_error(
    make: type[nn.Module], inputs: tuple[int, ...], message: str
) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        prune(model, torch.randn(inputs))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
