"""One share for all groups, then what lies around it: one group after the other gives or takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point

#: logarithm of the factor on one group's share in the first round of neighbours; it grows by as much every round
STEP = 0.15


@STRATEGIES.register(
    "uniform", summary="one share for all, then its neighbours at the same cost", source="Zhu, Gupta 2017; ours"
)
class Uniform(Strategy):
    def propose(self, number: int, random: np.random.Generator) -> Point:
        whole = self.space.whole()
        if number == 0 or not whole.shares:
            return self.space.scaled_to(whole, self.budget)
        turn, group = divmod(number - 1, len(whole.shares))
        factor = math.exp(STEP * (turn // 2 + 1) * (1 if turn % 2 else -1))
        shares = tuple(share * (factor if n == group else 1.0) for n, share in enumerate(whole.shares))
        most = max(shares)  # shares above 1 mean that the others give
        return self.space.scaled_to(replace(whole, shares=tuple(s / most for s in shares)), self.budget)

    def learn(self, point: Point, result: Result) -> None:
        """Nothing is learnt."""
