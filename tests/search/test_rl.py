"""Agents behind ask and tell: they keep the contract, find what brute force finds, and may diverge."""

from __future__ import annotations

import itertools
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from neuroprune.base.errors import UserError
from neuroprune.search import agents
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.agents import EPISODES, ROLLOUT, isolated
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point, Space
from neuroprune.search.strategies.rl import RESTARTS
from neuroprune.testing.strategy_contract import BUDGET, SPACES, StrategyContract, judged

pytestmark = pytest.mark.extras
pytest.importorskip("stable_baselines3")
AGENTS = ("ddpg", "sac", "ppo")


@pytest.fixture(autouse=True)
def _few_gradient_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how well an agent learns."""
    if "near_the_best" not in request.node.name:
        monkeypatch.setattr(agents, "UPDATES", 4)


def made(agent: str, seed: int = 0, warmup: int | None = None, kind: str = "widths") -> Any:
    return STRATEGIES.get("rl")(SPACES[kind], BUDGET, seed, agent=agent, warmup=warmup)


def told(strategy: Strategy, count: int) -> list[float]:
    """Rewards of so many points, asked and told one after the other."""
    rewards = []
    for _ in range(count):
        point = strategy.ask()
        result = judged(strategy.space, point)
        strategy.tell(point, result)
        rewards.append(result.reward)
    return rewards


class TestContract(StrategyContract):
    """With a warm-up that ends before the contract does, so that the agent acts and learns."""

    name = "rl"

    def make(self, within_space: Space, seed: int = 0, folder: Path | None = None) -> Strategy:
        return STRATEGIES.get(self.name)(within_space, BUDGET, seed, folder, "ddpg", 27)


@pytest.mark.parametrize("kind", ["widths", "blocks_and_kernels"])
@pytest.mark.parametrize("agent", AGENTS)
def test_told_the_same_a_new_agent_goes_on_where_this_one_was(agent: str, kind: str) -> None:
    uninterrupted, killed, resumed = (made(agent, 3, warmup=2, kind=kind) for _ in range(3))
    told(uninterrupted, ROLLOUT + 3)
    told(killed, ROLLOUT + 1)
    for point, result in killed.told:
        resumed.tell(point, result)
    told(resumed, 2)
    assert resumed.told == uninterrupted.told
    assert all(SPACES[kind].fits(point, BUDGET) for point, _ in resumed.told)


def best_by_brute_force(space: Space) -> float:
    points = (
        Point(tuple(n / w.size for n, w in zip(counts, space.widths, strict=True)))
        for counts in itertools.product(*(w.kept for w in space.widths))
    )
    return max(judged(space, point).reward for point in points if space.fits(point, BUDGET))


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_get_near_the_best_point_and_walk_better_than_chance(agent: str) -> None:
    best, strategy = best_by_brute_force(SPACES["widths"]), made(agent)
    rewards = told(strategy, 60)
    assert best - 0.5 <= max(rewards) <= best
    chance = told(STRATEGIES.get("random")(SPACES["widths"], BUDGET, 0), 80)
    walks = [strategy._walked(100, np.random.default_rng(n)) for n in range(20)]  # with hardly any noise
    assert np.mean([judged(strategy.space, point).reward for point in walks]) > np.mean(chance)


class TestLearning:
    def test_ddpg_is_amc_s(self) -> None:
        model = made("ddpg").agent.model
        shapes = [tuple(weight.shape) for weight in model.actor.parameters() if weight.dim() == 2]
        assert shapes == [(300, 10), (300, 300), (1, 300)]
        assert model.actor.optimizer.param_groups[0]["lr"] == 1e-4
        assert model.critic.optimizer.param_groups[0]["lr"] == 1e-3
        assert (model.tau, model.gamma, model.policy_delay) == (0.01, 1.0, 1)

    def test_the_rates_stay_apart_while_it_learns(self) -> None:
        strategy = made("ddpg", warmup=1)
        told(strategy, 4)
        model = strategy.agent.model
        assert model._n_updates == 3 * agents.UPDATES  # after the second, third and fourth episode
        assert model.actor.optimizer.param_groups[0]["lr"] == 1e-4
        assert model.critic.optimizer.param_groups[0]["lr"] == 1e-3

    @pytest.mark.parametrize("explored", [0, 30])
    def test_noise_is_a_truncated_normal_that_decays(self, explored: int) -> None:
        agent, state = made("ddpg").agent, np.full(10, 0.5, np.float32)
        mean, sigma = agent._predicted(state, deterministic=True), 0.5 * 0.95**explored
        drawn = [agent.act(state, explored, np.random.default_rng(n)) for n in range(400)]
        bounds = (0 - mean) / sigma, (1 - mean) / sigma
        assert stats.kstest(drawn, stats.truncnorm(*bounds, mean, sigma).cdf).pvalue > 0.01

    def test_rewards_less_their_moving_average_are_credited_to_every_step(self) -> None:
        strategy = made("ddpg", warmup=0)
        for reward, share in ((10.0, 0.5), (20.0, 0.25)):
            point = Point((share, 0.5, 0.25))
            strategy.tell(point, Result(0.0, reward, {}, True, 0.0))
        buffer = strategy.agent.model.replay_buffer
        assert buffer.size() == 6
        assert buffer.buffer_size == 3 * EPISODES
        # the average is 10, then 11; the deviation of 10 and 20 is 5
        np.testing.assert_allclose(buffer.rewards[:6, 0], [-0.2] * 3 + [1.8] * 3, rtol=1e-6)
        np.testing.assert_array_equal(buffer.dones[:6, 0], [0, 0, 1, 0, 0, 1])
        np.testing.assert_allclose(buffer.actions[:6, 0, 0], [0, 0, -0.5, -0.5, 0, -0.5])
        np.testing.assert_array_equal(buffer.next_observations[0], buffer.observations[1])
        np.testing.assert_array_equal(buffer.observations[1, 0, -1:], [0.5])

    def test_ppo_learns_from_whole_episodes_with_the_reward_at_their_end(self) -> None:
        strategy = made("ppo")
        told(strategy, ROLLOUT - 1)
        before = [weights.clone() for weights in strategy.agent.model.policy.parameters()]
        assert strategy.agent.model._n_updates == 0
        told(strategy, 1)
        assert any(
            (old != new).any() for old, new in zip(before, strategy.agent.model.policy.parameters(), strict=True)
        )
        spread, rewards = np.std(strategy.rewards), np.array(strategy.rewards)
        by_hand = np.repeat((rewards - strategy.baseline) / spread, 3)
        np.testing.assert_allclose(
            strategy.agent.model.rollout_buffer.returns.ravel(), by_hand, rtol=1e-3, atol=1e-4
        )

    @pytest.mark.parametrize("agent", ["ddpg", "sac"])
    def test_more_episodes_than_it_remembers(self, agent: str) -> None:
        strategy = made(agent, warmup=EPISODES)
        told(strategy, EPISODES + 2)
        assert strategy.agent.model.replay_buffer.full
        assert len(strategy.episodes) == EPISODES

    @pytest.mark.parametrize("agent", AGENTS)
    def test_the_world_s_random_numbers_are_left_alone(self, agent: str) -> None:
        with isolated(7):
            wanted = random.random(), np.random.random(), torch.rand(1)
        with isolated(7):
            told(made(agent, warmup=1), 3 if agent != "ppo" else ROLLOUT)
            assert (random.random(), np.random.random(), torch.rand(1)) == wanted

    @pytest.mark.parametrize("agent", AGENTS)
    def test_points_are_new_as_long_as_there_are_any(self, agent: str) -> None:
        strategy = made(agent, warmup=2)
        told(strategy, 16)
        assert len({strategy.space.key(point) for point, _ in strategy.told}) == 16

    def test_a_point_beyond_the_budget_teaches_nothing(self) -> None:
        strategy = made("ddpg", warmup=0)
        whole = SPACES["widths"].whole()
        strategy.tell(whole, Result(100.0, 100.0, {}, False, 0.0))
        assert not strategy.episodes
        told(strategy, 2)
        assert len(strategy.episodes) == 2


class TestDiverged:
    @pytest.mark.parametrize("agent", AGENTS)
    def test_it_begins_anew_and_says_so(self, agent: str) -> None:
        strategy = made(agent, warmup=0)
        told(strategy, 3)
        before = list(strategy.told)
        spoil(strategy)
        told(strategy, 1)
        assert strategy.notes == ["the agent diverged after 3 evaluations and began anew"]
        assert strategy.told[:3] == before
        assert all(torch.isfinite(weights).all() for weights in strategy.agent.model.policy.parameters())

    @pytest.mark.parametrize("agent", AGENTS)
    def test_weights_spoilt_by_a_lesson_are_noticed(self, agent: str) -> None:
        strategy = made(agent, warmup=0)
        learn = type(strategy.agent)._learn

        def spoilt(episodes: Any) -> None:
            learn(strategy.agent, episodes)
            spoil(strategy)

        strategy.agent._learn = spoilt
        told(strategy, 2)
        assert len(strategy.notes) == 1
        assert len(strategy.told) == 2

    def test_after_some_times_it_gives_up_and_loses_nothing(self) -> None:
        strategy = made("ddpg", warmup=0)
        told(strategy, 2)
        for _ in range(RESTARTS):
            spoil(strategy)
            strategy.ask()
        spoil(strategy)
        with pytest.raises(UserError, match="diverged 4 times"):
            strategy.ask()
        assert len(strategy.told) == 2
        assert len(strategy.notes) == RESTARTS

    @pytest.mark.parametrize("agent", AGENTS)
    @pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
    def test_a_reward_that_is_no_number_teaches_nothing(self, agent: str, reward: float) -> None:
        strategy = made(agent, warmup=0)
        strategy.tell(strategy.ask(), Result(0.0, reward, {}, True, 0.0))
        told(strategy, 2)
        assert len(strategy.episodes) == 2
        assert not strategy.notes

    @pytest.mark.parametrize("agent", AGENTS)
    def test_rewards_of_any_size_do_no_harm(self, agent: str) -> None:
        strategy = made(agent, warmup=0)
        for size in (1e30, -1e30, 1e-30, 0.0) * 2:
            strategy.tell(strategy.ask(), Result(0.0, size, {}, True, 0.0))
        assert SPACES["widths"].fits(strategy.ask(), BUDGET)
        assert not strategy.notes


def spoil(strategy: Any) -> None:
    with torch.no_grad():
        for weights in strategy.agent.model.policy.parameters():
            weights.fill_(math.nan)


class TestOptions:
    def test_an_unknown_agent_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UserError, match="did you mean 'ddpg'"):
            made("dpg")

    @pytest.mark.parametrize("missing", ["stable_baselines3", "gymnasium"])
    def test_without_the_extra_it_says_what_to_install(
        self, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(UserError, match=r"pip install 'neuroprune\[rl\]'"):
            made("ddpg")

    def test_a_warm_up_cannot_be_negative(self) -> None:
        with pytest.raises(UserError, match="warm-up"):
            made("ddpg", warmup=-1)
