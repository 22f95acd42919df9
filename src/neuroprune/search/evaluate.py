"""What a point is worth: its network, made without training and judged on validation data."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.judge import Judge, Judged
from neuroprune.search.log import Lines
from neuroprune.search.rewards import Measured, Reward
from neuroprune.search.space import Point, Space, within


@dataclass(frozen=True)
class Result:
    """``score``: accuracy, or agreement with the dense network where no labels are used, in percent (0 where the
    outputs are not finite); ``reward``: what the search maximises; ``costs``: per kind, in its base unit;
    ``feasible``: they keep to the budget; ``seconds``: CPU time that it took; ``figures``: all that was judged."""

    score: float
    reward: float
    costs: Mapping[str, float]
    feasible: bool
    seconds: float
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Result:
        """Raises UserError for what is no result."""
        try:
            return cls(**data)
        except TypeError as error:
            raise UserError(
                f"this is no result of a search: {error}", value=data, mend="take the file again from the search"
            ) from error


class Builds(Protocol):
    """What makes networks of points (`subject.Subject`)."""

    @property
    def space(self) -> Space: ...

    def network(self, point: Point) -> nn.Module:
        """The cut and quickly recovered network of a rounded point, in evaluation mode."""
        ...


class Evaluator:
    """Point -> Result; points of the same network are evaluated once, over all processes that share ``path``.

    ``judge``: holds the validation data. ``path``: JSON lines of finished results (None: in memory alone).
    """

    def __init__(
        self, subject: Builds, judge: Judge, budget: Budget, reward: Reward | None = None, path: Path | None = None
    ) -> None:
        self.subject, self.judge, self.budget = subject, judge, budget
        self.reward = reward or Reward()
        self.space = subject.space
        self.limits = self.space.limits(budget)
        self.dense = self.space.dense_cost()
        self.lines = Lines(path)
        self.known: dict[tuple[object, ...], Result] = {}
        self.history: list[tuple[Point, Result]] = []  # every line, those of other processes too
        self.refresh()

    def refresh(self) -> None:
        """Take in what was appended, by other processes too."""
        for entry in self.lines.read():
            point, result = Point.from_json(entry.get("point")), Result.from_json(entry.get("result"))
            self.history.append((point, self.known.setdefault(self.space.key(point), result)))

    def __call__(self, point: Point) -> Result:
        """Deterministic but for ``seconds``; a result that is known is given as it is."""
        found = self.look_up(point)
        return found if found is not None else self.record(point, self.evaluate(point))

    def look_up(self, point: Point) -> Result | None:
        """The finished result of the point's network, if there is one."""
        key = self.space.key(point)
        if key not in self.known:
            self.refresh()
        return self.known.get(key)

    def record(self, point: Point, result: Result) -> Result:
        """Write down that a point was asked for and what came out, whoever worked it out. Where its network's
        result is known already, that stays."""
        result = self.known.setdefault(self.space.key(point), result)
        self.lines.append({"point": self.space.round(point).to_json(), "result": result.to_json()})
        self.refresh()
        return result

    def evaluate(self, point: Point) -> Result:
        """Without looking at what is known, and without writing it down."""
        began = time.process_time()
        point = self.space.round(point)
        judged, costs = self.judge(self.subject.network(point)), self.space.cost(point)
        score = score_of(judged)
        reward = self.reward(self._measured(score, point, costs))
        figures = {key: value for key, value in asdict(judged).items() if value is None or math.isfinite(value)}
        return Result(
            score, reward, costs, within(costs, self.limits), time.process_time() - began, figures
        )  # fmt: skip

    def _measured(self, score: float, point: Point, costs: Mapping[str, float]) -> Measured:
        kind = next(iter(self.limits), "macs")
        return Measured(
            score, self.space.removed_share(point), costs["macs"], costs["params"], costs[kind] / self.dense[kind]
        )


def score_of(judged: Judged) -> float:
    """Percent. The user's figure or accuracy where there are labels, else agreement, else 100 times one less the
    outputs' relative squared error; 0 for what is not finite."""
    if judged.divergence is None:
        return 0.0
    found = judged.metric if judged.metric is not None else judged.agreement
    score = found if found is not None else max(0.0, 100.0 * (1.0 - judged.divergence))
    return score if math.isfinite(score) else 0.0
