"""The loop: ask, evaluate, write down, tell. What was written down is told again when a search goes on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Protocol

from neuroprune.base.errors import UserError
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.search._base import Strategy, best_of
from neuroprune.search.evaluate import Evaluator, Result
from neuroprune.search.space import Point


class Workers(Protocol):
    """Where evaluations run. ``slots``: how many at once."""

    @property
    def slots(self) -> int: ...

    def start(self, point: Point) -> None:
        """Begin to evaluate ``point``; called for at most ``slots`` points that are not back yet."""

    def wait(self) -> list[tuple[Point, Result]]:
        """Until something is back, and what is: points as they were given, in any order."""
        ...

    def close(self) -> None:
        """Let go of everything."""


class InProcess:
    """One after the other, here."""

    slots = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.waiting: deque[Point] = deque()

    def start(self, point: Point) -> None:
        self.waiting.append(point)

    def wait(self) -> list[tuple[Point, Result]]:
        point = self.waiting.popleft()
        return [(point, self.evaluator.evaluate(point))]

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Found:
    """``history``: every point that was asked for, in the order in which results came; ``best``: of those that
    meet the budget; ``distinct``: how many networks were really evaluated; ``notes``: the strategy's."""

    history: tuple[tuple[Point, Result], ...]
    best: tuple[Point, Result]
    distinct: int
    notes: tuple[str, ...] = ()

    def curve(self) -> list[float]:
        """Best score of a feasible point after each evaluation, by reward."""
        best: tuple[Point, Result] | None = None
        scores = []
        for one in self.history:
            best = best_of([one] if best is None else [best, one])
            assert best is not None
            scores.append(best[1].score)
        return scores

    def front(self, kind: str) -> list[tuple[Point, Result]]:
        """Points that no other one beats in both score and cost, cheapest first."""
        found: list[tuple[Point, Result]] = []
        for one in sorted(self.history, key=lambda one: (one[1].costs[kind], -one[1].score)):
            if not found or one[1].score > found[-1][1].score:
                found.append(one)
        return found


def search(
    strategy: Strategy,
    evaluator: Evaluator,
    evaluations: int,
    *,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Found:
    """Until ``evaluations`` points have been asked for and their results are written down, all processes together.

    What ``evaluator`` knows from before is told first. One point at a time, a search that was killed and goes on
    ends with the same evaluations as one that was not. Raises UserError for fewer than one evaluation.
    """
    if evaluations < 1:
        raise UserError("a search needs at least one evaluation", value=evaluations, mend="--evaluations 100")
    loop = _Loop(strategy, evaluator, workers or InProcess(evaluator))
    progress = progress or SilentProgress()
    progress.start("searching", evaluations)
    shown = 0
    try:
        while True:
            loop.tell()
            for _ in range(len(evaluator.history) - shown):
                progress.advance(_note(loop.strategy))
            shown = len(evaluator.history)
            if shown >= evaluations:
                break
            loop.step(evaluations)
    finally:
        loop.workers.close()
    return replace(found_in(evaluator), notes=tuple(loop.strategy.notes))


def found_in(evaluator: Evaluator) -> Found:
    """What is written down so far. Raises UserError where that is nothing."""
    best = best_of(evaluator.history)
    if best is None:
        raise UserError("nothing was evaluated yet", mend="run the search")
    return Found(tuple(evaluator.history), best, len(evaluator.known))


@dataclass
class _Loop:
    strategy: Strategy
    evaluator: Evaluator
    workers: Workers
    told: int = 0
    out: dict[tuple[object, ...], list[Point]] = field(default_factory=dict)  # points by their network

    def tell(self) -> None:
        """What was written down since, in that order, whoever wrote it."""
        self.evaluator.refresh()
        for point, result in self.evaluator.history[self.told :]:
            self.strategy.tell(point, result)
        self.told = len(self.evaluator.history)

    def step(self, evaluations: int) -> None:
        """Start what there is room for, and wait for a result."""
        while len(self.out) < self.workers.slots and self.told + sum(map(len, self.out.values())) < evaluations:
            point = self.strategy.ask()
            key, known = self.evaluator.space.key(point), self.evaluator.look_up(point)
            if known is not None:
                self.evaluator.record(point, known)
                return
            if key not in self.out:
                self.workers.start(point)
            self.out.setdefault(key, []).append(point)
        for done, result in self.workers.wait():
            for point in self.out.pop(self.evaluator.space.key(done)):
                self.evaluator.record(point, result)


def _note(strategy: Strategy) -> str:
    best = strategy.best()
    return "" if best is None else f"best {best[1].score:.2f}"
