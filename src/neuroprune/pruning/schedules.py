"""Schedules: what share of the final sparsity is reached when. One short function each, in one registry.

A schedule maps the time since pruning began, 0..1 of its span, to the part of the way that is gone, 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from neuroprune.base.errors import UserError
from neuroprune.base.registry import Registry

Course = Callable[[float], float]

SCHEDULES: Registry[Course] = Registry("schedule")


@SCHEDULES.register("one-shot", summary="all at once, at the start of the span")
def one_shot(time: float) -> float:
    return 1.0


@SCHEDULES.register("iterative", summary="in equal steps", source="Han et al. 2015, arXiv:1506.02626")
def iterative(time: float) -> float:
    return time


@SCHEDULES.register(
    "cubic", summary="fast at first, ever slower: 1 - (1 - t)^3", source="Zhu, Gupta 2017, arXiv:1710.01878"
)
def cubic(time: float) -> float:
    return 1 - (1 - time) ** 3


@SCHEDULES.register("cosine", summary="slow, fast, slow: (1 - cos(pi t)) / 2")
def cosine(time: float) -> float:
    return (1 - math.cos(math.pi * time)) / 2


@dataclass(frozen=True)
class Schedule:
    """From sparsity ``start`` at share ``begin`` of the training steps to ``target`` at share ``end``.

    >>> Schedule("cubic", target=0.8, begin=0.0, end=1.0).at(0.5)
    0.7

    Raises UserError for an unknown name, sparsities outside [0, 1), and times outside [0, 1] or out of order.
    """

    name: str = "cubic"
    target: float = 0.5
    start: float = 0.0
    begin: float = 0.0
    end: float = 0.75

    def __post_init__(self) -> None:
        SCHEDULES.get(self.name)
        for name in ("start", "target"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"the sparsity {name!r} of a schedule must be at least 0 and below 1",
                    where="Schedule",
                    value=getattr(self, name),
                    mend="0.9 switches nine of ten weights off",
                )
        if not 0 <= self.begin <= self.end <= 1:
            raise UserError(
                "a schedule begins and ends within the training",
                where="Schedule",
                value=f"begin {self.begin}, end {self.end}",
                mend="give shares of the training steps, 0 <= begin <= end <= 1",
            )

    def at(self, time: float) -> float:
        """Sparsity at ``time``, a share of the training steps in 0..1."""
        if time < self.begin:
            return self.start
        span = self.end - self.begin
        gone = 1.0 if time >= self.end else SCHEDULES.get(self.name)((time - self.begin) / span)
        return self.start + (self.target - self.start) * gone
