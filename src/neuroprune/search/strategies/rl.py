"""Reinforcement learning: an agent walks through the network and learns from what its points were worth."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.agents import AGENTS, EPISODES, Agent, Diverged, Episode, agent_environment
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space
from neuroprune.search.strategies.random_ import drawn
from neuroprune.search.walk import Walk

#: of a new reward in the moving average that is the baseline
BASELINE = 0.1
#: walks until one leads to a new point; each explores as one so many episodes earlier would
DRAWS, EARLIER = 8, 10
#: fresh policies after an agent's weights stopped being numbers, before the search gives up
RESTARTS = 3


@STRATEGIES.register(
    "rl", summary="an agent walks through the layers (DDPG, SAC or PPO)", source="He et al. 2018, AMC"
)
class ReinforcementLearning(Strategy):
    """``agent``: one of `AGENTS`. ``warmup``: random points before it; None: as many as the agent wants.

    An episode is a point that was told, whoever asked for it: the walk that leads to it gives states and actions.
    So the agent depends on the seed and on what was told, in this order, and on nothing else. A reward r is learnt
    as (r - b) / s, b the moving average and s the standard deviation of all rewards. ``notes``: for the user.
    """

    def __init__(
        self,
        space: Space,
        budget: Budget,
        seed: int = 0,
        folder: Path | None = None,
        agent: str = "ddpg",
        warmup: int | None = None,
    ) -> None:
        """Raises UserError where the extra is not installed, and as `Strategy`."""
        super().__init__(space, budget, seed, folder)
        if warmup is not None and warmup < 0:
            raise UserError("the warm-up cannot be negative", value=warmup, mend="0 lets the agent act at once")
        self.make, self.walk = AGENTS.get(agent), Walk(space, budget)
        self.environment = agent_environment(space, budget)
        self.restarts = 0
        self.agent = self._fresh()
        self.warmup = self.agent.warmup if warmup is None else warmup
        self.episodes: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=EPISODES)
        self.rewards: list[float] = []
        self.baseline = 0.0
        self.seen: set[tuple[object, ...]] = set()

    def propose(self, number: int, random: np.random.Generator) -> Point:
        if number < self.warmup:
            return drawn(self, random)
        known = self.seen | {self.space.key(point) for point in self.pending}
        for attempt in range(DRAWS):
            point = self._walked(max(number - self.warmup - EARLIER * attempt, 0), random)
            if self.space.key(point) not in known:
                return point
        others = [drawn(self, random) for _ in range(DRAWS)]
        return next((other for other in others if self.space.key(other) not in known), point)

    def learn(self, point: Point, result: Result) -> None:
        self.seen.add(self.space.key(point))
        walked = self._retraced(point)
        if walked is None or not math.isfinite(result.reward):
            return  # a point beyond the budget, of another strategy, or one that is worth nothing
        self.baseline += (BASELINE if self.rewards else 1.0) * (result.reward - self.baseline)
        self.rewards.append(result.reward)
        self.episodes.append((*walked, result.reward))
        if len(self.told) > self.warmup:
            self._train()

    def _train(self) -> None:
        spread = float(np.std(self.rewards)) or 1.0
        episodes = [Episode(s, a, (reward - self.baseline) / spread) for s, a, reward in self.episodes]
        try:
            self.agent.learn(episodes, _seed(self.seed, self.restarts, len(self.told)))
        except Diverged:
            self._restart()

    def _walked(self, explored: int, random: np.random.Generator) -> Point:
        self.walk.restart()
        while not self.walk.done:
            try:
                self.walk.take(self.agent.act(self.walk.state(), explored, random))
            except Diverged:
                self._restart()
        return self.walk.point()

    def _retraced(self, point: Point) -> tuple[np.ndarray, np.ndarray] | None:
        """States [steps + 1, features] and actions [steps] of the walk to ``point``; None where there is none."""
        wanted, states, actions = self.walk.actions_of(self.space.round(point)), [], []
        self.walk.restart()
        while not self.walk.done:
            states.append(self.walk.state())
            actions.append(self.walk.take(wanted[len(self.walk.taken)]))
        states.append(self.walk.state())
        if not actions or self.space.key(self.walk.point()) != self.space.key(point):
            return None
        return np.stack(states), np.array(actions)

    def _fresh(self) -> Agent:
        return self.make(self.environment, len(self.walk.choices), _seed(self.seed, self.restarts))

    def _restart(self) -> None:
        """A fresh policy; what was told is still known and learnt from. Raises UserError after too many."""
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise UserError(
                f"the agent diverged {self.restarts} times: its weights are not finite",
                where=f"after {len(self.told)} evaluations, which are kept",
                mend="take another agent or another strategy; rewards of a very large size are a usual cause",
            )
        self.notes.append(f"the agent diverged after {len(self.told)} evaluations and began anew")
        self.agent = self._fresh()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)
