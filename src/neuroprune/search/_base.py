"""What a strategy is: it is asked for points and told what they are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.registry import Registry
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space


class Strategy(ABC):
    """``ask`` gives a rounded point of the space that meets the budget, ``tell`` says what a point is worth.

    What is asked for follows from the seed, from what was told, in whatever order, and from how many points are
    out: told the same results again, a new object goes on where this one was. Points that nobody asked for may be
    told (by other processes, or of an earlier run).
    """

    #: several processes may search in one folder, and none asks for what another is at
    shared = False

    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None) -> None:
        """``folder``: of the search, for strategies that keep something there beside what they are told. Raises
        UserError where there is no budget, or it is out of reach."""
        if not budget.limits:
            raise UserError("a search needs a budget", mend="write budget: {macs: 0.5} in the recipe")
        space.check(budget)
        self.space, self.budget, self.seed = space, budget, seed
        self.told: list[tuple[Point, Result]] = []
        self.pending: list[Point] = []
        self.notes: list[str] = []  # what a user should know of the search's course

    def ask(self) -> Point:
        """The next point to be evaluated, rounded; it meets the budget."""
        number = len(self.told) + len(self.pending)
        point = self.propose(number, np.random.default_rng([self.seed, number]))
        self.pending.append(point)
        return point

    def tell(self, point: Point, result: Result) -> None:
        """``result`` of ``point``, asked for or not."""
        if point in self.pending:
            self.pending.remove(point)
        self.told.append((point, result))
        self.learn(point, result)

    def best(self) -> tuple[Point, Result] | None:
        """Of all that was told: see `best_of`."""
        return best_of(self.told)

    @abstractmethod
    def propose(self, number: int, random: np.random.Generator) -> Point:
        """The ``number``-th point (from 0). ``random``: its own generator."""

    @abstractmethod
    def learn(self, point: Point, result: Result) -> None:
        """What the strategy keeps of a result beside ``told``; many keep nothing."""


def best_of(told: Sequence[tuple[Point, Result]]) -> tuple[Point, Result] | None:
    """The greatest reward of those that meet the budget (of all, where none does); the first of equals."""
    able = [one for one in told if one[1].feasible] or told
    return max(able, key=lambda one: one[1].reward, default=None)


#: (space, budget, seed, folder) -> Strategy
STRATEGIES: Registry[type[Strategy]] = Registry("strategy")
