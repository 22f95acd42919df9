"""Regularised evolution: the best of a few of the living has a child, and the oldest dies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.search._base import STRATEGIES, Strategy, best_of
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space
from neuroprune.search.strategies.random_ import drawn

#: how many live, and of how many the best is a parent; the paper's 100 and 25 are for thousands of evaluations
POPULATION, SAMPLE = 24, 6
#: standard deviation of the logarithm of a share's factor, and the share of a point that changes at once
SPREAD, CHANGED = 0.3, 0.3
#: children that are drawn until one is new
DRAWS = 20


@STRATEGIES.register(
    "evolution",
    summary="children of the best of a few, the oldest dies",
    source="Real et al. 2019, aging evolution",
)
class Evolution(Strategy):
    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None) -> None:
        super().__init__(space, budget, seed, folder)
        self.seen: set[tuple[object, ...]] = set()

    def propose(self, number: int, random: np.random.Generator) -> Point:
        if len(self.told) < 2 or number < POPULATION:
            return drawn(self, random)
        out = {self.space.key(point) for point in self.pending}
        for _ in range(DRAWS):
            child = self._child(random)
            if child is not None and self.space.key(child) not in self.seen | out:
                return child
        return drawn(self, random)

    def learn(self, point: Point, result: Result) -> None:
        self.seen.add(self.space.key(point))

    def _child(self, random: np.random.Generator) -> Point | None:
        living = self.told[-POPULATION:]
        sample = random.choice(len(living), min(SAMPLE, len(living)), replace=False)
        parent = best_of([living[n] for n in sorted(sample.tolist())])
        assert parent is not None
        try:
            return self.space.scaled_to(mutated(self.space, parent[0], random), self.budget)
        except UserError:  # with these blocks and kernels no width meets the budget
            return None


def mutated(space: Space, point: Point, random: np.random.Generator) -> Point:
    """Some shares multiplied, some blocks and kernels turned over; something changes in any case."""
    names = [*space.blocks, *space.kernels]
    size = len(point.shares) + len(names)
    changes = random.random(size) < max(CHANGED, 1 / size)
    changes[random.integers(size)] = True
    # of the many blocks and kernels one at a time is a large step
    flips = np.flatnonzero(changes[len(point.shares) :])
    flips = random.permutation(flips)[:1] if len(flips) else flips
    factors = np.exp(SPREAD * random.standard_normal(len(point.shares)) * changes[: len(point.shares)])
    turned = {names[n] for n in flips.tolist()}
    shares = tuple(min(1.0, s * f) for s, f in zip(point.shares, factors.tolist(), strict=True))
    gone, shrunk = (
        set(point.gone) ^ (turned & set(space.blocks)),
        set(point.shrunk) ^ (turned & set(space.kernels)),
    )
    return replace(point, shares=shares, gone=tuple(sorted(gone)), shrunk=tuple(sorted(shrunk)))
