"""Random search: what every other strategy must beat."""

from __future__ import annotations

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point

#: draws until one can be scaled to the budget; then widths alone are drawn
DRAWS = 20


@STRATEGIES.register(
    "random", summary="uniform shares, scaled to the budget", source="Li, Talwalkar 2019, Random search and NAS"
)
class Random(Strategy):
    def propose(self, number: int, random: np.random.Generator) -> Point:
        return drawn(self, random)

    def learn(self, point: Point, result: Result) -> None:
        """Nothing is learnt."""


def drawn(strategy: Strategy, random: np.random.Generator) -> Point:
    """A random point at the budget."""
    for _ in range(DRAWS):
        try:
            return strategy.space.scaled_to(strategy.space.random(random), strategy.budget)
        except UserError:  # its blocks and kernels cost too much at any width
            continue
    everything = strategy.space.smallest(strategy.space.blocks, tuple(strategy.space.kernels))
    return strategy.space.scaled_to(everything, strategy.budget)
