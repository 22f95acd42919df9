"""One share for all groups, then what lies around it: one group after the other gives or takes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuroprune.base.nouns import Budget
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space

#: logarithm of the factor on one group's share in the first round of neighbours; it grows by as much every round
STEP = 0.15
#: rounds over all groups that are looked through for a neighbour that is new
ROUNDS = 16


@STRATEGIES.register(
    "uniform", summary="one share for all, then its neighbours at the same cost", source="Zhu, Gupta 2017; ours"
)
class Uniform(Strategy):
    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None) -> None:
        super().__init__(space, budget, seed, folder)
        self.seen: set[tuple[object, ...]] = set()
        self.neighbours: dict[int, Point] = {}

    def propose(self, number: int, random: np.random.Generator) -> Point:
        out = self.seen | {self.space.key(point) for point in self.pending}
        for place in range(number, number + ROUNDS * len(self.space.widths)):
            if place not in self.neighbours:
                self.neighbours[place] = self._neighbour(place)
            if self.space.key(self.neighbours[place]) not in out:
                return self.neighbours[place]
        return self.neighbours[number]

    def learn(self, point: Point, result: Result) -> None:
        self.seen.add(self.space.key(point))

    def _neighbour(self, place: int) -> Point:
        """The 0th is the uniform point; then each group gives, then each takes, then both by more."""
        whole = self.space.whole()
        if place == 0 or not whole.shares:
            return self.space.scaled_to(whole, self.budget)
        turn, group = divmod(place - 1, len(whole.shares))
        factor = math.exp(STEP * (turn // 2 + 1) * (1 if turn % 2 else -1))
        shares = tuple(share * (factor if n == group else 1.0) for n, share in enumerate(whole.shares))
        most = max(shares)  # shares above 1 mean that the others give
        return self.space.scaled_to(replace(whole, shares=tuple(s / most for s in shares)), self.budget)
