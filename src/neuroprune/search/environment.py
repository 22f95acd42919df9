"""Gymnasium environments around the search: layer by layer as in AMC, round by round as in Neuro Prune (S1).

Import this file only where the extra is installed: ``pip install 'neuroprune[rl]'``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space
from neuroprune.search.walk import STATE, Walk

try:
    import gymnasium
except ImportError as error:
    raise UserError(
        f"gymnasium cannot be imported: {error}", mend="install it with: pip install 'neuroprune[rl]'"
    ) from error

#: what a point is worth: an `Evaluator`, or any function
Evaluate = Callable[[Point], Result]
#: the entries of a round's observation, each in [0, 1]
ROUND_STATE = ("round", "sparsity", "score", "drop", "last action", "last reward")


class LayerEnvironment(gymnasium.Env):
    """One episode is one point, group after group (He et al. 2018, AMC).

    Observations: float32 [10], see `Walk.state`. Actions: float32 [1], the share of the group that is to stay,
    in (0, 1], rounded to an allowed count and clipped so that the budget stays within reach. The reward is the
    point's after the last step, 0 before. ``info["share"]`` is what did stay; the last one has ``point`` and
    ``result`` as plain data.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, space: Space, budget: Budget, evaluate: Evaluate) -> None:
        """Raises UserError where the budget is out of reach."""
        self.walk, self.evaluate = Walk(space, budget), evaluate
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(STATE),), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.walk.restart()
        return self.walk.state(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Raises UserError for an action that is not finite, and when the episode is over."""
        info: dict[str, Any] = {"share": self.walk.take(float(action[0]))}
        if not self.walk.done:
            return self.walk.state(), 0.0, False, False, info
        point = self.walk.point()
        result = self.evaluate(point)
        info |= {"point": point.to_json(), "result": result.to_json()}
        return self.walk.state(), result.reward, True, False, info


class RoundEnvironment(gymnasium.Env):
    """One episode is one pruning run of ``rounds`` rounds (S1, Neuro Prune), from the dense network on.

    Actions: float32 [1], or [groups] where ``per_group``: the fraction of the units left that goes in this round,
    in [0, 1]; every group keeps its least. Observations: float32 [6], as `ROUND_STATE` names them: the round over
    all rounds; the share of the parameters that is gone; score / 100; how much lower it is than the dense
    network's, / 100; the mean of the last action; the last round's reward x in units of the dense network's (of 1
    where that is less) as 1/2 + x / (2 (1 + |x|)). The reward of a round is what it added to the network's: their
    sum over an episode is the last network's reward less the dense one's. The last round also brings the network
    within the budget.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate,
        budget: Budget | None = None,
        *,
        rounds: int = 8,
        per_group: bool = False,
    ) -> None:
        """Raises UserError where the budget is out of reach, and for less than one round."""
        if rounds < 1:
            raise UserError("there must be at least one round", value=rounds, mend="8 is a good start")
        self.space, self.evaluate, self.budget, self.rounds = space, evaluate, budget or Budget(), rounds
        space.check(self.budget)
        actions = len(space.widths) if per_group else 1
        if not space.widths:
            raise UserError("rounds need groups of units to prune", mend="search layer by layer instead")
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(ROUND_STATE),), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.last_action, self.last_reward = 0, 0.0, 0.0
        self.point = self.space.whole()
        self.dense = self.result = self.evaluate(self.point)
        return self._state(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Raises UserError for an action that is not finite, and when the episode is over."""
        if self.number >= self.rounds:
            raise UserError("the episode is over", mend="reset the environment before the next step")
        if not np.isfinite(action).all():
            raise UserError("the agent's action is not a number", value=action, mend="lower its learning rate")
        self.number += 1
        self.point = self._pruned(np.clip(action.astype(np.float64), 0.0, 1.0))
        before, self.result = self.result, self.evaluate(self.point)
        self.last_action, self.last_reward = float(action.mean()), self.result.reward - before.reward
        info = {"point": self.point.to_json(), "result": self.result.to_json()}
        return self._state(), self.last_reward, self.number == self.rounds, False, info

    def _pruned(self, fractions: np.ndarray) -> Point:
        left = np.array(self.point.shares) * (1.0 - fractions)
        point = self.space.round(replace(self.point, shares=tuple(left.tolist())))
        last = self.number == self.rounds
        if last and not self.space.fits(point, self.budget):
            return self.space.scaled_to(point, self.budget)
        return point

    def _state(self) -> np.ndarray:
        gain = self.last_reward / max(abs(self.dense.reward), 1.0)
        state = [
            self.number / self.rounds,
            self.space.removed_share(self.point),
            self.result.score / 100.0,
            (self.dense.score - self.result.score) / 100.0,
            self.last_action,
            0.5 + gain / (2.0 * (1.0 + abs(gain))),
        ]
        return np.array(state, np.float32).clip(0.0, 1.0)
