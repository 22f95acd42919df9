"""stable-baselines3's agents, fed with finished episodes instead of running the environment themselves.

Evaluations are slow, may run elsewhere, and survive a killed process; so the search keeps the loop, and an agent
only proposes actions and learns from episodes whose reward is known. stable-baselines3 draws from the global
generators: `isolated` lends them to it with a seed of ours.
"""

from __future__ import annotations

import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from neuroprune.base.errors import UserError
from neuroprune.base.registry import Registry

#: transitions per gradient step of DDPG and SAC, of episodes that are remembered (AMC's published code)
BATCH, EPISODES = 64, 100
#: of the truncated normal noise, from the first episode after the warm-up on (He et al. 2018)
SIGMA, DECAY, LEAST_SIGMA = 0.5, 0.95, 1e-3
#: episodes per update of PPO
ROLLOUT = 8
#: gradient steps of DDPG and SAC after each episode, at least. AMC makes one per layer, over many hundred episodes
UPDATES = 30
#: of the actor's last layer in the beginning (Lillicrap et al. 2016), or it saturates before the critic knows much
INITIAL = 3e-3


@dataclass(frozen=True)
class Episode:
    """``states``: [steps + 1, features]; ``actions``: [steps] in [0, 1]; ``reward``: of its end, standardised."""

    states: np.ndarray
    actions: np.ndarray
    reward: float


class Diverged(Exception):
    """The agent's weights or actions are not finite any more."""


class Agent(ABC):
    """A policy over one action in [0, 1]. ``warmup``: episodes of random points to learn from before it acts."""

    warmup = 40

    def __init__(self, environment: Any, steps: int, seed: int) -> None:
        """``environment``: Gymnasium's, for its spaces; nothing runs in it. ``steps``: of an episode, at most."""
        self.steps = steps
        with isolated(seed):
            self.model = self._model(environment, seed)
        self.model.set_logger(_silent())

    def act(self, state: np.ndarray, explored: int, generator: np.random.Generator) -> float:
        """An action to explore with; ``explored``: episodes since the warm-up. Raises Diverged."""
        with noticed():
            action = self._action(state, explored, generator)
        if not np.isfinite(action):
            raise Diverged
        return action

    def learn(self, episodes: Sequence[Episode], seed: int) -> None:
        """``episodes``: the last `EPISODES` of all, the newest last. Raises Diverged."""
        with isolated(seed), noticed():
            self._learn(episodes)
        if not all(bool(torch.isfinite(weights).all()) for weights in self.model.policy.parameters()):
            raise Diverged

    @abstractmethod
    def _model(self, environment: Any, seed: int) -> Any: ...

    @abstractmethod
    def _action(self, state: np.ndarray, explored: int, generator: np.random.Generator) -> float: ...

    @abstractmethod
    def _learn(self, episodes: Sequence[Episode]) -> None: ...

    def _predicted(self, state: np.ndarray, deterministic: bool) -> float:
        """stable-baselines3's actions are in [-1, 1]."""
        action, _ = self.model.predict(state, deterministic=deterministic)
        return (float(action[0]) + 1.0) / 2.0


#: (environment, steps, seed) -> Agent
AGENTS: Registry[type[Agent]] = Registry("agent")


class _OffPolicy(Agent):
    """Learns from a replay buffer; every step is credited with the reward of its episode (He et al. 2018)."""

    def _learn(self, episodes: Sequence[Episode]) -> None:
        self._remember(self.model.replay_buffer, episodes)
        self.model.train(gradient_steps=max(UPDATES, len(episodes[-1].actions)), batch_size=BATCH)

    def _remember(self, buffer: Any, episodes: Sequence[Episode]) -> None:
        """The buffer's whole content is written anew, since rewards are standardised anew after each episode."""
        lengths = [len(episode.actions) for episode in episodes]
        ends = np.cumsum(lengths)
        buffer.reset()
        buffer.pos, buffer.full = int(ends[-1]) % buffer.buffer_size, bool(ends[-1] == buffer.buffer_size)
        buffer.observations[: ends[-1], 0] = np.concatenate([episode.states[:-1] for episode in episodes])
        buffer.next_observations[: ends[-1], 0] = np.concatenate([episode.states[1:] for episode in episodes])
        buffer.actions[: ends[-1], 0, 0] = _scaled(np.concatenate([episode.actions for episode in episodes]))
        buffer.rewards[: ends[-1], 0] = np.repeat([episode.reward for episode in episodes], lengths)
        buffer.dones[:] = 0.0
        buffer.dones[ends - 1, 0] = 1.0

    def _buffer(self) -> dict[str, Any]:
        return {"buffer_size": EPISODES * self.steps, "learning_starts": 0, "batch_size": BATCH}


@AGENTS.register("ddpg", summary="deep deterministic policy gradient", source="He et al. 2018, AMC")
class Ddpg(_OffPolicy):
    """AMC's: 2 x 300 units, actor 1e-4, critic 1e-3, tau 0.01, gamma 1, truncated normal noise."""

    def _model(self, environment: Any, seed: int) -> Any:
        from stable_baselines3 import DDPG

        layers = {"net_arch": [300, 300]}
        model = DDPG(
            "MlpPolicy", environment, 1e-3, tau=0.01, gamma=1.0, policy_kwargs=layers, seed=seed, device="cpu",
            **self._buffer(),
        )  # fmt: skip
        torch.nn.init.uniform_(model.actor.mu[-2].weight, -INITIAL, INITIAL)
        torch.nn.init.zeros_(model.actor.mu[-2].bias)
        model.actor_target.load_state_dict(model.actor.state_dict())
        model.actor.optimizer.param_groups[0]["lr"] = 1e-4
        model._update_learning_rate = lambda optimizers: None  # it would give both the same rate
        return model

    def _action(self, state: np.ndarray, explored: int, generator: np.random.Generator) -> float:
        mean, sigma = self._predicted(state, deterministic=True), max(SIGMA * DECAY**explored, LEAST_SIGMA)
        if not np.isfinite(mean):
            return mean
        bounds = (0.0 - mean) / sigma, (1.0 - mean) / sigma
        return float(stats.truncnorm.rvs(*bounds, loc=mean, scale=sigma, random_state=generator))


@AGENTS.register("sac", summary="soft actor-critic: explores by entropy", source="Haarnoja et al. 2018")
class Sac(_OffPolicy):
    def _model(self, environment: Any, seed: int) -> Any:
        from stable_baselines3 import SAC

        return SAC(
            "MlpPolicy", environment, 1e-3, tau=0.01, gamma=1.0, ent_coef="auto_0.1", seed=seed, device="cpu",
            **self._buffer(),
        )  # fmt: skip

    def _action(self, state: np.ndarray, explored: int, generator: np.random.Generator) -> float:
        with isolated(int(generator.integers(2**31))):
            return self._predicted(state, deterministic=False)


@AGENTS.register("ppo", summary="proximal policy optimisation", source="Schulman et al. 2017")
class Ppo(Agent):
    """Learns from the newest `ROLLOUT` episodes, whenever there are so many new ones, and forgets them."""

    warmup = 0

    def __init__(self, environment: Any, steps: int, seed: int) -> None:
        super().__init__(environment, steps, seed)
        self.fresh = 0

    def _model(self, environment: Any, seed: int) -> Any:
        from stable_baselines3 import PPO

        policy = {"log_std_init": -1.0}
        return PPO(
            "MlpPolicy", environment, 1e-3, n_steps=BATCH, batch_size=BATCH, gamma=1.0, gae_lambda=1.0,
            policy_kwargs=policy, seed=seed, device="cpu",
        )  # fmt: skip

    def _action(self, state: np.ndarray, explored: int, generator: np.random.Generator) -> float:
        with isolated(int(generator.integers(2**31))):
            return self._predicted(state, deterministic=False)

    def _learn(self, episodes: Sequence[Episode]) -> None:
        self.fresh += 1
        if self.fresh == ROLLOUT:
            self.fresh = 0
            self._fill(episodes[-ROLLOUT:])
            self.model.train()

    def _fill(self, episodes: Sequence[Episode]) -> None:
        """Rewards come at the ends; the policy has not changed since the first of these episodes."""
        from stable_baselines3.common.buffers import RolloutBuffer

        model, total = self.model, sum(len(episode.actions) for episode in episodes)
        model.rollout_buffer = RolloutBuffer(
            total, model.observation_space, model.action_space, "cpu", gae_lambda=1.0, gamma=1.0
        )
        for episode in episodes:
            states = torch.from_numpy(episode.states[:-1])
            actions = torch.from_numpy(_scaled(episode.actions))[:, None]
            with torch.no_grad():
                values, chances, _ = model.policy.evaluate_actions(states, actions)
            for n in range(len(actions)):
                reward = episode.reward if n == len(actions) - 1 else 0.0
                model.rollout_buffer.add(
                    episode.states[n], actions[n].numpy(), _one(reward), _one(n == 0), values[n], chances[n]
                )
        model.rollout_buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))


def agent_environment(space: Any, budget: Any) -> Any:
    """What stable-baselines3 takes spaces from: `LayerEnvironment` with actions in [-1, 1]. Raises UserError where
    the extra is not installed."""
    try:
        import gymnasium
        import stable_baselines3  # noqa: F401 -- found missing here, not in the first episode
    except ImportError as error:
        raise UserError(
            f"agents need an optional part: {error}", mend="install it with: pip install 'neuroprune[rl]'"
        ) from error
    from neuroprune.search.environment import LayerEnvironment

    environment = LayerEnvironment(space, budget, _never)
    return gymnasium.wrappers.RescaleAction(environment, np.float32(-1.0), np.float32(1.0))


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Inside, the global generators start from ``seed``; afterwards they are as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Raises Diverged where PyTorch's distributions find that what they are given is not finite."""
    try:
        yield
    except ValueError as error:
        raise Diverged from error


def _never(point: Any) -> Any:
    raise AssertionError("an agent's own environment evaluates nothing")


def _silent() -> Any:
    from stable_baselines3.common.logger import Logger

    return Logger(folder=None, output_formats=[])


def _scaled(actions: np.ndarray) -> np.ndarray:
    """From [0, 1] to stable-baselines3's [-1, 1]."""
    return np.asarray(2.0 * actions - 1.0, dtype=np.float32)


def _one(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)
