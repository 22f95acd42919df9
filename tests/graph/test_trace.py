"""Tracing: which units a model has, with answers written out, and what is refused and why."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from graph.nets import (
    CASES,
    Concat,
    Depthwise,
    FlipAdd,
    Grouped,
    PermuteFlatten,
    Reduced,
    Residual,
    Tied,
    Transposed,
)  # fmt: skip
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph import Trace, cost, trace
from neuroprune.pruning import prune


def footprint(found: Trace, group: str) -> dict[str, list[list[int]]]:
    return {f"{s.tensor}.{s.dim}": s.indices.tolist() for s in found.group(group).slices}


@pytest.mark.parametrize("name", CASES)
def test_units_of_each_operator_family(name: str) -> None:
    make, shape, expected = CASES[name]
    found = trace(make(), torch.randn(shape))
    assert {g.name: g.size for g in found.groups} == expected


def test_a_unit_of_flip_add_is_a_pair_of_mirrored_channels() -> None:
    found = trace(FlipAdd(), torch.randn(1, 3, 4, 4))
    pairs = {frozenset(pair) for pair in footprint(found, "conv")["conv.weight.0"]}
    assert pairs == {frozenset(p) for p in ([0, 7], [1, 6], [2, 5], [3, 4])}
    assert footprint(found, "conv")["conv.weight.0"] == footprint(found, "conv")["next.weight.1"]


def test_a_channel_behind_permute_and_flatten_owns_every_sixth_column() -> None:
    columns = footprint(trace(PermuteFlatten(), torch.randn(1, 3, 6, 6)), "conv")["head.weight.1"]
    assert columns[2] == list(range(2, 96, 6))


def test_concatenated_branches_keep_their_places() -> None:
    found = trace(Concat(), torch.randn(1, 3, 4, 4))
    assert footprint(found, "a")["out.weight.1"] == [[0, 10], [1, 11], [2, 12], [3, 13]]
    assert footprint(found, "b")["out.weight.1"] == [[4], [5], [6], [7], [8], [9]]


def test_tied_weights_shrink_on_the_shared_width_and_keep_the_vocabulary() -> None:
    found = trace(Tied(), torch.zeros(2, 5, dtype=torch.long))
    assert footprint(found, "embed")["embed.weight.1"] == [[i] for i in range(8)]
    assert ("embed.weight", 0) in {(r.parameter, r.dim) for r in found.refused}


def test_a_grouped_convolution_loses_whole_groups_and_the_same_place_of_every_group() -> None:
    """8 channels into 12 by 4 groups: 2 places for each group's input, 3 for its output."""
    found = trace(Grouped(), torch.randn(1, 3, 9))
    places, groups, outputs = (footprint(found, name) for name in ("first", "first#2", "grouped"))
    assert found.group("first#2").kind == "conv_group"
    assert places["first.weight.0"] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert places["grouped.weight.1"] == [[0], [1]]
    assert groups["first.weight.0"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups["grouped.weight.0"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]] == groups["out.weight.1"]
    assert outputs["grouped.weight.0"] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]] == outputs["out.weight.1"]


def test_a_depthwise_multiplier_is_a_group_of_its_own() -> None:
    """Each of 8 channels makes 2: whole channels go, or the first (second) product of all."""
    found = trace(Depthwise(), torch.randn(1, 3, 4, 4))
    assert footprint(found, "point")["depth.weight.0"] == [[2 * i, 2 * i + 1] for i in range(8)]
    assert footprint(found, "depth")["depth.weight.0"] == [list(range(0, 16, 2)), list(range(1, 16, 2))]


def test_a_transposed_grouped_convolution_stores_its_outputs_once_for_all_groups() -> None:
    """8 channels into 16 by 4 groups: the weight is [8, 4], so a unit of outputs is one column."""
    found = trace(Transposed(), torch.randn(1, 3, 6, 6))
    assert footprint(found, "up")["deep.weight.0"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert footprint(found, "up")["out.weight.1"] == [list(range(4 * i, 4 * i + 4)) for i in range(4)]
    assert footprint(found, "up#2")["deep.weight.0"] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert footprint(found, "deep")["deep.weight.1"] == [[0], [1], [2], [3]]
    assert footprint(found, "deep")["out.weight.1"] == [[i, i + 4, i + 8, i + 12] for i in range(4)]


def test_a_mean_over_channels_is_a_statistic() -> None:
    found = trace(Reduced(), torch.randn(1, 3, 4, 4))
    assert {g.name: g.statistics for g in found.groups} == {"a": False, "b": True}


def test_inputs_and_outputs_protect_themselves() -> None:
    found = trace(Residual(), torch.randn(1, 3, 8, 8))
    cut = {(s.tensor, s.dim) for g in found.groups for s in g.slices}
    assert ("stem.weight", 1) not in cut
    assert ("head.weight", 0) not in cut
    assert ("head.bias", 0) not in cut


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    model.bn.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, torch.randn(2, 3, 8, 8))
    assert model.training
    assert not model.bn.training
    assert not model._forward_hooks
    assert not model.bn._forward_pre_hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@torch.library.custom_op("neuroprune_tests::mixed", mutates_args=())
def mixed(x: Tensor) -> Tensor:
    return x.cumsum(1)


mixed.register_fake(torch.empty_like)


class Unknown(nn.Module):
    """An operator that no rule knows: its input is pinned and reported, never guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(mixed(self.a(x)))


def test_refusals_name_operator_module_line_and_reason() -> None:
    found = trace(Unknown(), torch.randn(2, 3))
    assert found.groups == ()
    refusal = next(r for r in found.refused if r.parameter == "a.weight" and r.dim == 0)
    assert (refusal.operator, refusal.reason) == ("mixed", "there is no rule for this operator")
    file, _, line = refusal.where.rpartition(":")
    assert "self.out(mixed(self.a(x)))" in Path(file).read_text().splitlines()[int(line) - 1]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_data_dependent_control_flow_is_a_clear_error() -> None:
    with pytest.raises(UserError, match=r"control flow depends on the values(.|\n)*test_trace.py:\d+"):
        trace(Branching(), torch.randn(2, 3))


def test_a_wrong_example_shape_names_shape_module_and_line() -> None:
    model = Residual()
    with pytest.raises(UserError, match=r"module 'stem'(.|\n)*nets.py:\d+(.|\n)*\(1, 4, 8, 8\)"):
        trace(model, torch.randn(1, 4, 8, 8))
    assert not model.stem._forward_pre_hooks


def test_keyword_inputs_and_dict_outputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            hidden = self.a(left)
            return {"y": self.out(hidden + 1), "aux": self.b(right)}

    found = trace(Net(), {"left": torch.randn(2, 3), "right": torch.randn(2, 3)})
    assert {g.name for g in found.groups} == {"a"}


class Quotient(nn.Module):
    """Attention whose head dimension is worked out by ``divide``."""

    def __init__(self, divide: Callable[[int, int], int]) -> None:
        super().__init__()
        self.heads, self.divide = 4, divide
        self.embed, self.out = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        heads = x.view(b, n, self.heads, self.divide(c, self.heads)).transpose(1, 2)
        heads = (heads @ heads.transpose(-2, -1) * 0.5).softmax(-1) @ heads
        return self.out(heads.transpose(1, 2).reshape(b, n, c))


class Flattened(nn.Module):
    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.out, self.flatten = nn.Conv2d(3, 8, 1), nn.Linear(128, 2), flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.flatten(self.conv(x)))


def by_int(c: int, heads: int) -> int:
    return int(c / heads)


def by_trunc(c: int, heads: int) -> int:
    return math.trunc(c / heads)


def int_of_numpy(x: Tensor) -> Tensor:
    return x.view(-1, int(np.prod(x.shape[1:])))


def numpy_alone(x: Tensor) -> Tensor:
    return x.reshape(np.prod(x.shape[:1]), np.prod(x.shape[1:]))


def numpy_in_a_tuple(x: Tensor) -> Tensor:
    return x.reshape((x.shape[0], np.prod(x.shape[1:])))


@pytest.mark.parametrize("divide", [by_trunc, lambda c, heads: math.floor(c / heads), lambda c, heads: c // heads])
def test_a_quotient_that_can_be_followed_is_cut_in_both_directions(divide: Callable[[int, int], int]) -> None:
    kinds = {g.kind: g.size for g in trace(Quotient(divide), torch.randn(2, 5, 8)).groups}
    assert kinds == {"head": 4, "head_dim": 6}


@pytest.mark.parametrize(
    ("make", "shape", "line"),
    [
        (lambda: Quotient(by_int), (2, 5, 8), "int(c / heads)"),
        (lambda: Flattened(int_of_numpy), (2, 3, 4, 4), "int(np.prod("),
    ],
)
def test_a_size_that_is_lost_on_its_way_is_named_with_the_line_where(
    make: Callable[[], nn.Module], shape: tuple[int, ...], line: str
) -> None:
    product = np.prod
    reasons = [r.reason for r in trace(make(), torch.randn(shape)).refused if "cannot be followed" in r.reason]
    assert reasons
    file, number = re.search(r"\(int\(\) or numpy, (.+):(\d+)\): write // or math.prod", reasons[0]).groups()
    assert file == Path(__file__).name
    assert line in Path(__file__).read_text().splitlines()[int(number) - 1]
    assert np.prod is product


@pytest.mark.parametrize("flatten", [numpy_alone, numpy_in_a_tuple])
def test_numbers_of_numpy_are_no_literals(flatten: Callable[[Tensor], Tensor]) -> None:
    result = prune(Flattened(flatten), torch.randn(2, 3, 4, 4), criterion="random")
    assert result.model.conv.weight.shape[0] == 4
    assert result.verification.exact


def test_cost_counts_parameters_and_macs_of_one_example() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 7))
    for batch in (1, 3):
        found = cost(model, torch.randn(batch, 3, 5, 5))
        assert found.params == 3 * 4 * 9 + 4 + 100 * 7 + 7
        assert found.macs == 3 * 4 * 9 * 25 + 100 * 7
        assert found.weight_bytes == 4 * found.params
