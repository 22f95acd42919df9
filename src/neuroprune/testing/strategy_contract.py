"""What every strategy of a search must keep to; third parties subclass the contract for their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import neuroprune.search.strategies  # noqa: F401  # fills the registry
from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.problem import Costs, Layer, Part, proportional
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space, Width, within

BUDGET = Budget(macs=0.5)


def space(
    sizes: Sequence[int] = (8, 6, 12), *, blocks: bool = False, kernels: bool = False, step: int = 1
) -> Space:
    """A chain of layers, each the outputs of one group and the inputs of the last; a residual block beside it."""
    layers = [
        Layer(f"layer{n}.weight", (Part(n, 1 / size),), (Part(n - 1, 1 / sizes[n - 1]),) if n else ())
        for n, size in enumerate(sizes)
    ]
    layers += [
        Layer("block.conv.weight", (), ()),
        Layer("head.weight", (), (Part(len(sizes) - 1, 1 / sizes[-1]),)),
    ]
    dense = [10.0 * (n + 1) for n in range(len(layers))]
    of = {"macs": [proportional(d) for d in dense], "params": [proportional(d / 7) for d in reversed(dense)]}
    widths = tuple(
        Width(f"layer{n}", size, (*range(step, size, step), size), tuple(np.linspace(0, 1 + n, size + 1) ** 2))
        for n, size in enumerate(sizes)
    )
    return Space(
        widths, Costs(tuple(layers), of, {"macs": 3.0}), ("block",) if blocks else (),
        {"layer1": 1 / 9} if kernels else {}, {"block": frozenset([len(sizes)])}, {"block": frozenset()},
        {"block": 0.7},
    )  # fmt: skip


SPACES = {
    "widths": space(),
    "one_group": space((9,)),
    "multiples_of_four": space((8, 16), step=4),
    "blocks_and_kernels": space(blocks=True, kernels=True),
}


def judged(within_space: Space, point: Point) -> Result:
    """A made-up network: each group is worth the root of its share, the deeper the more; what is gone costs 5."""
    shares = within_space.round(point).shares
    score = sum((n + 1) * share**0.5 for n, share in enumerate(shares)) / sum(range(1, len(shares) + 1))
    score = 100.0 * score - 5.0 * (len(point.gone) + len(point.shrunk))
    costs = within_space.cost(point)
    return Result(score, score, costs, within(costs, within_space.limits(BUDGET)), 0.0)


class StrategyContract:
    """Subclass, set ``name`` to a registered strategy, and let pytest collect it. ``asked``: after so many points
    it does all that it ever does."""

    name: str
    asked = 30

    def make(self, within_space: Space, seed: int = 0, folder: Path | None = None) -> Strategy:
        return STRATEGIES.get(self.name)(within_space, BUDGET, seed, folder)

    def run(self, strategy: Strategy, count: int) -> list[Point]:
        """Ask and tell one after the other."""
        points = []
        for _ in range(count):
            points.append(strategy.ask())
            strategy.tell(points[-1], judged(strategy.space, points[-1]))
        return points

    @pytest.mark.parametrize("kind", SPACES)
    def test_points_are_whole_allowed_and_meet_the_budget(self, kind: str) -> None:
        strategy = self.make(SPACES[kind])
        for point in self.run(strategy, self.asked):
            assert SPACES[kind].round(point) == point
            assert SPACES[kind].fits(point, BUDGET)

    @pytest.mark.parametrize("kind", SPACES)
    def test_the_same_seed_asks_for_the_same(self, kind: str) -> None:
        first, second = (self.run(self.make(SPACES[kind], seed=3), self.asked) for _ in range(2))
        assert first == second

    def test_results_may_come_in_any_order_and_late(self) -> None:
        strategy = self.make(SPACES["widths"])
        points = [strategy.ask() for _ in range(6)]
        for point in reversed(points):
            strategy.tell(point, judged(strategy.space, point))
        assert not strategy.pending
        assert SPACES["widths"].fits(strategy.ask(), BUDGET)

    def test_the_best_is_never_lost(self) -> None:
        strategy = self.make(SPACES["widths"])
        self.run(strategy, 3)
        foreign = SPACES["widths"].scaled_to(Point((0.4, 0.9, 0.7)), BUDGET)
        better = judged(strategy.space, foreign)
        wonderful = Result(99.0, 1e6, better.costs, True, 0.0)
        strategy.tell(foreign, wonderful)  # nobody asked for it
        strategy.tell(SPACES["widths"].whole(), Result(100.0, 1e9, {"macs": 1e9, "params": 1e9}, False, 0.0))
        self.run(strategy, self.asked)
        assert strategy.best() == (foreign, wonderful)

    @pytest.mark.parametrize("kind", SPACES)
    def test_told_the_same_a_new_one_goes_on_where_this_one_was(self, kind: str, tmp_path: Path) -> None:
        for folder in (None, tmp_path)[: 2 if kind == "widths" else 1]:
            strategy = self.make(SPACES[kind], folder=folder)
            points = self.run(strategy, self.asked - 3)
            another = self.make(SPACES[kind], folder=folder)
            for point in points:
                another.tell(point, judged(another.space, point))
            rest = self.run(another, 3)
            uninterrupted = self.run(self.make(SPACES[kind]), self.asked)
            assert rest == uninterrupted[-3:]
            assert another.best() == best_by_hand(SPACES[kind], uninterrupted)

    def test_a_budget_that_cannot_be_met_is_refused(self) -> None:
        for budget in (Budget(macs=1e-6), Budget(latency="1ms"), Budget()):
            with pytest.raises(UserError, match=r"budget|cost"):
                STRATEGIES.get(self.name)(SPACES["widths"], budget, 0, None)


def best_by_hand(within_space: Space, points: Sequence[Point]) -> tuple[Point, Result]:
    """The first of the best."""
    best = points[0]
    for point in points[1:]:
        if judged(within_space, point).reward > judged(within_space, best).reward:
            best = point
    return best, judged(within_space, best)
