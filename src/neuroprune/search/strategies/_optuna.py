"""What the strategies of Optuna share: its study is told every point as it was evaluated, and asked for the next.

A study may lie in the search's folder (SQLite): then several processes share it, each sees what the others were
told, and one that was killed leaves nothing behind that the next one minds.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.files import locked
from neuroprune.base.nouns import Budget
from neuroprune.search._base import Strategy
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space

STORAGE = "study.db"


def optuna() -> Any:
    """The module. Raises UserError where it is not installed."""
    try:
        import optuna as module
    except ImportError as error:
        raise UserError(
            "this strategy needs Optuna", mend='pip install "neuroprune[search]", or take random or evolution'
        ) from error
    module.logging.set_verbosity(module.logging.WARNING)
    return module


class OptunaStrategy(Strategy):
    shared = True

    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None) -> None:
        super().__init__(space, budget, seed, folder)
        self.optuna, self.folder = optuna(), folder
        distributions = self.optuna.distributions
        self.distributions = {
            **{f"share {w.name}": distributions.FloatDistribution(w.kept[0] / w.size, 1.0) for w in space.widths},
            **{f"gone {name}": distributions.CategoricalDistribution([False, True]) for name in space.blocks},
            **{f"shrunk {name}": distributions.CategoricalDistribution([False, True]) for name in space.kernels},
        }
        with self._alone():
            self.study = self.optuna.create_study(
                storage=None if folder is None else f"sqlite:///{folder / STORAGE}",
                study_name="neuroprune", directions=self.directions(), load_if_exists=True,
            )  # fmt: skip
        self.trials: dict[Point, list[Any]] = {}

    @abstractmethod
    def directions(self) -> list[str]:
        """Of the values."""

    @abstractmethod
    def sampler(self, seed: int) -> Any:
        """A new one: what it remembers is in the study."""

    @abstractmethod
    def values(self, result: Result) -> list[float]:
        """One per direction."""

    @abstractmethod
    def attributes(self, number: int) -> dict[str, Any]:
        """What the sampler wants to know about the ``number``-th finished trial."""

    def propose(self, number: int, random: np.random.Generator) -> Point:
        with self._alone():
            number = self._finished() + self._running()
            self.study.sampler = self.sampler(
                int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            )
            trial = self.study.ask(self.distributions)
            trial.set_user_attr("process", os.getpid())
        point = self._point(trial.params)
        try:
            point = self.space.scaled_to(point, self.budget) if not self._as_it_is(point) else point
        except UserError:  # its blocks and kernels cost too much at any width
            point = self.space.scaled_to(
                Point(point.shares, self.space.blocks, tuple(self.space.kernels)), self.budget
            )
        self.trials.setdefault(point, []).append(trial)
        return point

    def _as_it_is(self, point: Point) -> bool:
        """Whether the point is taken without being scaled to the budget."""
        return False

    def learn(self, point: Point, result: Result) -> None:
        """The trial that was drawn gives way to one of the point as it was evaluated."""
        asked = self.trials.get(point, [])
        with self._alone():
            if not asked and self._is_there(point):
                return
            if asked:
                self.study.tell(asked.pop(), state=self.optuna.trial.TrialState.FAIL)
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    params=self._params(point), distributions=self.distributions, values=self.values(result),
                    system_attrs=self.attributes(self._finished()),
                )
            )  # fmt: skip

    def _finished(self) -> int:
        return len(self._trials(self.optuna.trial.TrialState.COMPLETE))

    def _running(self) -> int:
        """Trials of processes that live; what a killed one left is closed."""
        living = 0
        for trial in self._trials(self.optuna.trial.TrialState.RUNNING):
            process = int(trial.user_attrs.get("process", 0))
            mine = any(one.number == trial.number for own in self.trials.values() for one in own)
            if mine or (process != os.getpid() and _lives(process)):
                living += 1
            else:
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        return living

    def _trials(self, state: Any) -> list[Any]:
        found: list[Any] = self.study.get_trials(deepcopy=False, states=(state,))
        return found

    def _is_there(self, point: Point) -> bool:
        """Another process, or this search before it was interrupted, has told the study, as often as now this."""
        wanted, times = self._params(point), sum(told == point for told, _ in self.told)
        trials = self._trials(self.optuna.trial.TrialState.COMPLETE)
        return sum(bool(trial.params == wanted) for trial in trials) >= times

    def _params(self, point: Point) -> dict[str, float | bool]:
        return {
            **{f"share {w.name}": share for w, share in zip(self.space.widths, point.shares, strict=True)},
            **{f"gone {name}": name in point.gone for name in self.space.blocks},
            **{f"shrunk {name}": name in point.shrunk for name in self.space.kernels},
        }

    def _point(self, params: dict[str, Any]) -> Point:
        gone = tuple(name for name in self.space.blocks if params[f"gone {name}"])
        shrunk = tuple(name for name in self.space.kernels if params[f"shrunk {name}"])
        return self.space.round(Point(tuple(params[f"share {w.name}"] for w in self.space.widths), gone, shrunk))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process reads how far the study is between this one's look and its own trial."""
        if self.folder is None:
            yield
            return
        lock = self.folder / "study"
        lock.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            yield


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
