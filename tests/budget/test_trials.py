"""Choices by trial: against every choice where curves mislead, and the whole way on a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune import Budget, prune_to_budget
from neuroprune.base.errors import UserError
from neuroprune.base.progress import SilentProgress
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.depth import Choice, Removable, choose
from neuroprune.budget.problem import Costs, Layer, Part, Problem, proportional
from neuroprune.budget.trials import Factors, Trials, _parted, searched
from neuroprune.graph.trace import trace
from neuroprune.pruning.blocks import Block
from neuroprune.recover.refit import ClosedForm, consumptions, dense_moments, rank_groups
from neuroprune.recover.replay import Replay
from neuroprune.tasks.task import default_forward

SIZES = (3, 4, 3)


def problem(generator: np.random.Generator) -> tuple[Problem, list[Removable]]:
    """Three blocks of one layer, which is one group."""
    errors = [np.r_[0, np.cumsum(np.sort(generator.exponential(size=n)))] for n in SIZES]
    layers = tuple(Layer(f"b{g}.x.weight", (Part(g, 1 / n),), ()) for g, n in enumerate(SIZES))
    costs = Costs(layers, {"macs": [proportional(float(v)) for v in generator.uniform(1, 4, len(layers))]})
    limit = 0.5 * costs.total("macs", np.zeros(3, dtype=int))
    blocks = [Removable(Block(f"b{g}", 1, 1, "args[0]"), float(errors[g][-1])) for g in range(3)]
    allowed = [list(range(n)) for n in SIZES]
    return Problem((), errors, costs, {"macs": limit}, allowed, None), blocks  # type: ignore[arg-type]


def stream(given: Problem, blocks: Sequence[Removable]) -> Choice:
    return choose(given, blocks, ALLOCATIONS.get("stream"))


def truly(choice: Choice, given: Problem, hidden: np.ndarray) -> float:
    """What the choice costs where each group's (and block's) error counts ``hidden[g]`` times."""
    gone = {int(one.block.module[1]) for one in choice.gone}
    return sum(
        hidden[g] * float(curve[-1] if g in gone else curve[choice.removed[g]])
        for g, curve in enumerate(given.errors)
    )


def least(given: Problem, blocks: list[Removable], hidden: np.ndarray) -> float:
    found = float("inf")
    for off in itertools.product([False, True], repeat=3):
        for removed in itertools.product(*([0] if o else own for o, own in zip(off, given.allowed, strict=True))):
            cost = sum(given.costs.layer("macs", g, np.array(removed)) for g in range(3) if not off[g])
            gone = tuple(one for one, o in zip(blocks, off, strict=True) if o)
            if cost <= given.limits["macs"] * (1 + 1e-9):
                found = min(found, truly(Choice(np.array(removed), gone, 0.0), given, hidden))
    return found


def test_trials_find_what_the_curves_do_not_tell() -> None:
    before, after = [], []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        given, blocks = problem(generator)
        hidden = np.exp(1.5 * generator.standard_normal(3))
        bound = least(given, blocks, hidden)
        factors = searched(
            given, blocks, stream, lambda c, g=given, h=hidden: truly(c, g, h), 30, seed, SilentProgress()
        )
        first, last = (
            truly(stream(*f.on(given, blocks)), given, hidden) for f in (Factors.none(given, blocks), factors)
        )
        assert bound - 1e-9 <= last <= first + 1e-9
        before.append(first / bound - 1)
        after.append(last / bound - 1)
    assert np.mean(before) > 0.2
    assert np.mean(after) < 0.25 * np.mean(before)


def test_no_choice_is_tried_twice_and_a_search_without_other_choices_ends() -> None:
    given, blocks = problem(np.random.default_rng(0))
    tried: list[tuple[object, ...]] = []

    def error(choice: Choice) -> float:
        tried.append(choice.key())
        return 1.0

    searched(given, blocks, stream, error, 15, 0, SilentProgress())
    assert len(set(tried)) == len(tried) > 1
    only = stream(given, blocks)
    factors = searched(given, blocks, lambda p, b: only, error, 15, 0, SilentProgress())
    assert not factors.groups.any()
    assert not factors.blocks.any()


def test_where_the_limits_cannot_be_met_from_there_the_search_goes_on() -> None:
    given, blocks = problem(np.random.default_rng(1))
    calls = iter(range(1000))

    def sometimes(p: Problem, b: Sequence[Removable]) -> Choice:
        if next(calls) % 2:
            raise UserError("out of reach")
        return stream(p, b)

    hidden = np.array([9.0, 1.0, 0.1])
    factors = searched(given, blocks, sometimes, lambda c: truly(c, given, hidden), 10, 0, SilentProgress())
    assert truly(stream(*factors.on(given, blocks)), given, hidden) < truly(stream(given, blocks), given, hidden)


@pytest.mark.parametrize(
    ("sizes", "fitted", "judged"),
    [([300], 1, 1), ([100, 200], 1, 1), ([64] * 32, 4, 8), ([10] * 6, 3, 3), ([1000, 10], 1, 1), ([1] * 3, 2, 1)],
)
def test_examples_are_parted_in_whole_batches(sizes: list[int], fitted: int, judged: int) -> None:
    batches = [torch.zeros(n, 2) for n in sizes]
    first, others = _parted(batches)
    assert (len(first), len(others)) == (fitted, judged)
    if len(batches) > 1:
        assert not {id(b) for b in first} & {id(b) for b in others}


class Net(nn.Module):
    """The first layer's units are copies of each other, so most can go; the third's are not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def net() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = Net().eval()
    return model, [torch.randn(50, 5) for _ in range(6)]


def test_the_error_of_a_trial_is_that_of_the_refitted_network_on_examples_not_fitted() -> None:
    model, batches = net()
    found = trace(model, batches[0][:2])
    form = ClosedForm(model, default_forward, batches, 300)
    ours = consumptions(model, found.groups, form.sites)
    moments = dense_moments(Replay(model, default_forward, batches), form.sites, 300, 0)
    rankings = rank_groups(model, ours, form.sites, moments)
    trials = Trials(model, default_forward, batches, ours, rankings, 0)
    assert trials.error(Choice(np.zeros(2, dtype=int), (), 0.0)) < 1e-8
    removed = np.array([6, 3])
    small = ClosedForm(model, default_forward, batches[:3], 150).run(
        ours, {one.group.name: 12 - n for one, n in zip(ours, removed.tolist(), strict=True)}, rankings
    ).model  # fmt: skip
    x = torch.cat(batches[3:])
    with torch.no_grad():
        wanted, given = model(x).double(), small(x).double()
    expected = float((given - wanted).square().sum() / wanted.square().sum())
    assert expected > 0.001
    assert trials.error(Choice(removed, (), 0.0)) == pytest.approx(expected, rel=1e-5)


def test_a_choice_by_trial_keeps_to_the_budget_and_is_no_worse_where_it_was_judged() -> None:
    model, batches = net()
    others = torch.cat(batches[3:])
    errors = {}
    for tries in (0, 12):
        result = prune_to_budget(model, batches, Budget(macs=0.4), tries=tries)
        again = prune_to_budget(model, batches, Budget(macs=0.4), tries=tries)
        assert result.plan == again.plan
        assert result.costs["macs"][1] <= result.costs["macs"][2]
        with torch.no_grad():
            errors[tries] = float((result.model(others) - model(others)).square().sum())
    assert errors[12] < errors[0]


def test_of_several_allocations_the_best_on_trial_is_taken() -> None:
    model, batches = net()
    results = {
        names: prune_to_budget(model, batches, Budget(macs=0.4), allocation=names)
        for names in ("stream", "uniform", ("uniform", "stream"), ("stream", "uniform"))
    }
    others = torch.cat(batches[3:])
    with torch.no_grad():
        errors = {
            name: float((results[name].model(others) - model(others)).square().sum())
            for name in ("stream", "uniform")
        }
    best = min(errors, key=errors.__getitem__)
    for both in (("uniform", "stream"), ("stream", "uniform")):
        assert results[both].plan.removed == results[best].plan.removed
        assert any(f"counts by {best!r}" in note and "uniform" in note for note in results[both].notes)
    assert results["stream"].plan.removed != results["uniform"].plan.removed


class Measured:
    dense = nn.Identity()

    def scores(self, criterion: str) -> list[np.ndarray]:
        return [np.arange(3.0)]

    def curves(self) -> list[np.ndarray]:
        return [np.array([0.0, 1.0]), np.array([0.0, 2.0])]


def test_an_allocation_that_cannot_meet_the_budget_leaves_it_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(given: Problem) -> np.ndarray:
        raise UserError("out of reach")

    model, batches = net()
    get = ALLOCATIONS.get
    monkeypatch.setattr(ALLOCATIONS, "get", lambda name: fails if name == "uniform" else get(name))
    alone = prune_to_budget(model, batches, Budget(macs=0.4))
    both = prune_to_budget(model, batches, Budget(macs=0.4), allocation=("uniform", "stream"))
    assert both.plan == alone.plan
    with pytest.raises(UserError, match="out of reach"):
        prune_to_budget(model, batches, Budget(macs=0.4), allocation=("uniform",))


def test_batches_that_are_made_when_asked_for_need_no_slices() -> None:
    model, batches = net()

    class Made(Sequence[Tensor]):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: Any) -> Any:
            assert isinstance(index, int)
            return batches[index]

    lazily = prune_to_budget(model, Made(), Budget(macs=0.4), tries=3)
    assert lazily.plan == prune_to_budget(model, batches, Budget(macs=0.4), tries=3).plan


def test_factors_weigh_errors_measured_curves_and_blocks_alike() -> None:
    """Measured curves too, so that trials go on from an allocation that looks at nothing else."""
    blocks = [Removable(Block("b", 1, 1, "args[0]"), 5.0)]
    given = Problem((), [np.array([0.0, 1.0]), np.array([0.0, 3.0])], Costs((), {}), {}, [], Measured())
    factors = Factors(np.log([10.0, 100.0]), np.log([2.0]))
    changed, others = factors.on(given, blocks)
    assert [curve.tolist() for curve in changed.errors] == [[0.0, pytest.approx(10)], [0.0, pytest.approx(300)]]
    curves = changed.known.curves()
    assert [curve.tolist() for curve in curves] == [[0.0, pytest.approx(10)], [0.0, pytest.approx(200)]]
    assert changed.known.scores("l1")[0].tolist() == [0.0, 1.0, 2.0]
    assert others[0].error == pytest.approx(10)
    assert given.errors[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("names", [(), ("stream", "strem")])
def test_allocations_that_do_not_exist_are_refused(names: tuple[str, ...]) -> None:
    model, batches = net()
    with pytest.raises(UserError, match="allocation"):
        prune_to_budget(model, batches, Budget(macs=0.4), allocation=names)


def test_a_negative_number_of_tries_is_refused() -> None:
    model, batches = net()
    with pytest.raises(UserError, match="tries"):
        prune_to_budget(model, batches, Budget(macs=0.5), tries=-1)
