"""The shipped allocator: dynamic programming on curves of errors, then the same with the curves weighted anew.

Its first point is one shot: nothing was evaluated for it. From there a (1+1) evolution strategy (Rechenberg 1973)
on the logarithms of the curves' weights, as in `neuroprune.budget.trials`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.depth import Removable, choose
from neuroprune.budget.problem import Problem
from neuroprune.budget.trials import Factors
from neuroprune.pruning.blocks import Block
from neuroprune.search._base import STRATEGIES, Strategy, best_of
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space
from neuroprune.search.strategies.random_ import drawn

#: what proposes the first points; the last of them goes on
ALLOCATIONS_TRIED = ("dp", "stream")
#: weights that are drawn until they lead to a point that was not told yet
DRAWS = 10


@STRATEGIES.register(
    "dp",
    summary="the shipped allocation in one shot, then with its curves of errors weighted anew",
    source="Shen et al. 2022, HALP; Everett 1963; ours",
)
class Allocated(Strategy):
    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None) -> None:
        super().__init__(space, budget, seed, folder)
        if not all(width.errors for width in space.widths):
            raise UserError(
                "this strategy needs curves of errors, and the space has none",
                mend="build it from a network and calibration data, or take another strategy",
            )
        self.removable = [Removable(Block(name, 0, 0, ""), space.block_errors[name]) for name in space.blocks]
        self.problem = _problem(space, space.limits(budget))
        self.none = Factors.none(self.problem, self.removable)
        self.asked: dict[tuple[object, ...], Factors] = {}
        self.factors: dict[tuple[object, ...], Factors] = {}  # of what was told

    def propose(self, number: int, random: np.random.Generator) -> Point:
        if number < len(ALLOCATIONS_TRIED):
            return self._chosen(self.none, ALLOCATIONS_TRIED[number])
        start = self._start(self.told)
        for _ in range(DRAWS):
            factors = start.near(random)
            try:
                point = self._chosen(factors, ALLOCATIONS_TRIED[-1])
            except UserError:  # the limits may be out of the allocation's reach from there
                continue
            key = self.space.key(point)
            if key not in self.factors and key not in self.asked:
                self.asked[key] = factors
                return point
        return drawn(self, random)

    def learn(self, point: Point, result: Result) -> None:
        """Where an earlier run asked for the point, its weights follow from its number."""
        key = self.space.key(point)
        asked = self.asked.pop(key, None)
        if key not in self.factors:
            self.factors[key] = asked or self._weights_of(len(self.told) - 1, key)

    def _weights_of(self, number: int, key: tuple[object, ...]) -> Factors:
        """Drawn once more, from what was known before this result."""
        if number < len(ALLOCATIONS_TRIED):
            return self.none
        random, start = np.random.default_rng([self.seed, number]), self._start(self.told[:-1])
        for _ in range(DRAWS):
            factors = start.near(random)
            try:
                if self.space.key(self._chosen(factors, ALLOCATIONS_TRIED[-1])) == key:
                    return factors
            except UserError:
                continue
        return self.none

    def _start(self, told: Sequence[tuple[Point, Result]]) -> Factors:
        """The weights of the best point."""
        best = best_of(told)
        return self.none if best is None else self.factors[self.space.key(best[0])]

    def _chosen(self, factors: Factors, allocation: str) -> Point:
        choice = choose(*factors.on(self.problem, self.removable), ALLOCATIONS.get(allocation))
        kept = zip(self.space.widths, choice.removed.tolist(), strict=True)
        shares = tuple((width.size - gone) / width.size for width, gone in kept)
        gone = tuple(sorted(one.block.module for one in choice.gone))
        return self.space.scaled_to(Point(shares, gone), self.budget)


class _Nothing:
    """These allocations ask for nothing but curves and costs."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"a search knows no {name} of the network")


def _problem(space: Space, limits: Mapping[str, float]) -> Problem:
    errors = [np.array(width.errors) for width in space.widths]
    allowed = [[width.size - count for count in reversed(width.kept)] for width in space.widths]
    return Problem((), errors, space.costs, limits, allowed, _Nothing())  # type: ignore[arg-type]
