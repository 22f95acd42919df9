"""Plans within plans: composing against cutting twice, and the levels that come out."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cascade_nets import Net, digits, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.cascade.evidence import first_examples
from neuroprune.cascade.levels import Level, LevelOptions, nested_levels
from neuroprune.cascade.nested import check_nested, composed
from neuroprune.graph import trace
from neuroprune.pruning import Plan, allocate, apply, prune, score, verify
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.depth import prune_depth
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.reconstruct import ReconstructConfig

INPUTS = torch.randn(2, 1, 8, 8)


def random_plan(model: nn.Module, ratio: float, seed: int, inputs: torch.Tensor = INPUTS) -> Plan:
    found = trace(model, inputs)
    return allocate(model, found, score(model, found, "random", seed=seed), ratio)


@settings(max_examples=8)
@given(st.floats(0, 0.8), st.floats(0, 0.8), st.integers(0, 99))
def test_one_plan_cuts_what_two_cut_one_after_the_other(first: float, then: float, seed: int) -> None:
    dense = Net().eval()
    large_plan = random_plan(dense, first, seed)
    large = apply(large_plan, copy.deepcopy(dense))
    small_plan = random_plan(large, then, seed + 1)
    twice = apply(small_plan, copy.deepcopy(large))
    plan = composed(large_plan, small_plan, dense)
    once = apply(plan, copy.deepcopy(dense))
    assert twice.state_dict().keys() == once.state_dict().keys()
    for name, value in twice.state_dict().items():
        assert torch.equal(value, once.state_dict()[name]), name
    check_nested([plan, large_plan, Plan.identity(dense)])
    assert Plan.from_json(plan.to_json()) == plan
    assert verify(dense, plan, INPUTS).exact


def test_decisions_count_in_units_of_the_dense_network() -> None:
    dense = Net().eval()
    large_plan = random_plan(dense, 0.5, 0)
    small_plan = random_plan(apply(large_plan, copy.deepcopy(dense)), 0.5, 1)
    plan = composed(large_plan, small_plan, dense)
    whole = {d.group: d for d in large_plan.decisions}
    for decision in plan.decisions:
        assert sorted((*decision.kept, *decision.removed)) == list(range(len(decision.scores)))
        assert set(decision.removed) >= set(whole[decision.group].removed)
        for unit in range(len(decision.scores)):
            assert (decision.scores[unit] < decision.threshold) == (unit in decision.removed)
    by_group = {group.name: group for group in trace(dense, INPUTS).groups}
    for decision in plan.decisions:
        for part in by_group[decision.group].slices:
            gone = sorted(part.indices[list(decision.removed)].ravel().tolist())
            assert list(plan.removed.get(part.tensor, {}).get(part.dim, ())) == gone


class Heads(nn.Module):
    """Sizes written in Python: heads and their width."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 8, 6
        self.qkv, self.out, self.head = nn.Linear(5, 144), nn.Linear(48, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.out(y.transpose(1, 2).reshape(n, t, -1))).mean(1))


def test_attributes_of_two_cuts_become_one() -> None:
    dense, inputs = Heads().eval(), torch.randn(2, 4, 5)
    first = prune(dense, inputs, 0.25, granularity="head")
    then = prune(first.model, inputs, 0.5, granularity="head")
    plan = composed(first.plan, then.plan, dense)
    edits = {edit.name: (edit.before, edit.after) for edit in plan.attributes}
    assert edits["heads"] == (8, 3)
    assert verify(dense, plan, inputs).exact
    twice, once = then.model.state_dict(), apply(plan, copy.deepcopy(dense)).state_dict()
    assert all(torch.equal(value, once[name]) for name, value in twice.items())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*(Residual() for _ in range(3))), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x))


def test_whole_blocks_are_nested_too() -> None:
    dense, inputs = Deep().eval(), torch.randn(2, 6)
    first = prune_depth(dense, inputs, ratio=0.34)
    then = prune_depth(first.model, inputs, ratio=0.5)
    width = random_plan(then.model, 0.5, 0, inputs)
    depth = composed(first.plan, then.plan, dense)
    both = composed(depth, width, dense)
    assert [len(plan.bypassed) for plan in (first.plan, depth, both)] == [1, 2, 2]
    check_nested([both, depth, first.plan, Plan.identity(dense)])
    assert verify(dense, both, inputs).exact
    with pytest.raises(UserError, match="not within"):
        check_nested([first.plan, depth])


def test_what_is_not_nested_is_refused() -> None:
    dense = Net().eval()
    small, large = (random_plan(dense, 0.5, seed) for seed in (0, 1))
    with pytest.raises(UserError, match="level 0 is not within level 1"):
        check_nested([small, large])
    with pytest.raises(UserError, match="different networks"):
        check_nested([replace(small, fingerprint="another"), small])


@pytest.fixture(scope="module")
def levels() -> list[Level]:
    return nested_levels(trained(), first_examples(digits().train, 512), (0.15, 0.45, 1.0))


def test_levels_keep_within_each_other_and_cost_what_was_asked(levels: list[Level]) -> None:
    dense = levels[-1].cost.macs
    for level, share in zip(levels, (0.15, 0.45, 1.0), strict=True):
        assert level.cost.macs <= share * dense
        assert level.verification.exact
        assert level.plan.fingerprint == levels[-1].plan.fingerprint
    for small, large in pairwise(levels):
        for name, dims in large.plan.removed.items():
            for dim, gone in dims.items():
                inside = is_inside(name, small.plan.bypassed)
                assert inside or set(gone) <= set(small.plan.removed[name][dim])


def test_the_weights_of_a_level_fit_its_plan_and_nothing_else_changed(levels: list[Level]) -> None:
    before = {name: value.clone() for name, value in trained().state_dict().items()}
    for level in levels:
        network = apply(level.plan, copy.deepcopy(trained()))
        network.load_state_dict(level.model.state_dict())  # strict: names and shapes
    assert all(torch.equal(value, before[name]) for name, value in trained().state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in levels[-1].model.state_dict().items())
    accuracies = [digits().evaluate(level.model, digits().val) for level in levels]
    assert accuracies[0] > 40  # refitted: as cut it is near chance
    assert accuracies[1] > accuracies[0]


def test_gradients_take_the_dense_network_as_teacher() -> None:
    batches = first_examples(digits().train, 256)
    options = LevelOptions(
        recover="distill",
        reconstruction=ReconstructConfig(steps=10),
        distillation=DistillConfig(epochs=8, lr=3e-3),
    )
    plain, taught = (nested_levels(trained(), batches, (0.2, 1.0), o)[0] for o in (None, options))

    def error(level: Level) -> float:
        with torch.no_grad():
            gaps = [(level.model(x) - trained()(x)).square().mean() for x, _ in batches]
        return float(torch.stack(gaps).mean())

    assert taught.plan.removed == plain.plan.removed
    assert error(taught) < error(plain)


@pytest.mark.parametrize(
    "shares",
    [(), (1.0,), (0.5, 0.2), (0.2, 0.2), (0.0, 1.0), (0.5, 1.2), (float("nan"), 1.0),
     (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)],
)  # fmt: skip
def test_shares_that_are_no_levels(shares: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="no levels"):
        nested_levels(trained(), [torch.randn(4, 1, 8, 8)], shares)


def test_nothing_to_calibrate_on_and_no_such_budget() -> None:
    with pytest.raises(UserError, match="nothing to calibrate on"):
        nested_levels(trained(), [], (0.5, 1.0))
    with pytest.raises(UserError, match="magic"):
        nested_levels(trained(), [INPUTS], (0.5, 1.0), LevelOptions(kind="magic"))
    with pytest.raises(UserError, match="unknown recover"):
        nested_levels(trained(), [INPUTS], (0.5, 1.0), LevelOptions(recover="magic"))  # type: ignore[arg-type]
