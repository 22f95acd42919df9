"""The walk that AMC's agent takes, and Gymnasium's environments around it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.kinds import Setting
from neuroprune.budget.problem import Costs, Layer, Part, proportional
from neuroprune.search.evaluate import Result
from neuroprune.search.layer_facts import LayerFacts, layer_facts
from neuroprune.search.space import Point, Space, Width
from neuroprune.search.subject import Options, Subject
from neuroprune.search.walk import STATE, Walk
from neuroprune.tasks.task import default_forward
from neuroprune.testing.strategy_contract import SPACES, judged

HALF = Budget(macs=0.5)


def two_layers() -> Space:
    """Image of 3 channels, 4x4 -> convolution to 8, stride 2, 2x2 -> linear from 32 to 4 -> linear to 2."""
    widths = (
        Width("conv.weight", 8, (2, 4, 6, 8), layer=LayerFacts("convolution", 3, 2, 3, 216)),
        Width("fc.weight", 4, (1, 2, 3, 4), layer=LayerFacts("linear", 32, 1, 1, 128)),
    )
    layers = (
        Layer("conv.weight", (Part(0, 1 / 8),), ()),
        Layer("fc.weight", (Part(1, 1 / 4),), (Part(0, 1 / 8),)),
        Layer("head.weight", (), (Part(1, 1 / 4),)),
    )
    params = [proportional(n) for n in (216.0, 128.0, 8.0)]
    return Space(widths, Costs(layers, {"macs": [proportional(864.0), *params[1:]], "params": params}))


class TestState:
    """864 multiply-accumulates in the convolution (4 positions), 128 in the hidden layer, 8 in the head: 1000."""

    def test_written_out_for_two_layers(self) -> None:
        walk = Walk(two_layers(), HALF)
        # the least: 2 of 8 channels, 1 of 4 neurons: 864/4 + 128/16 + 8/4 = 226
        first = [0, 0, 3 / 32, 1, 1, 1, 1, 0, 0.774, 1]
        np.testing.assert_allclose(walk.state(), np.float32(first))
        assert walk.take(0.55) == 0.5  # 4.4 channels: 4, and at most 498 of 1000 with one neuron left
        # 432 + 64 + 8 = 504 now; at the least 432 + 16 + 2 = 450
        second = [1, 1 / 4, 1, 1 / 2, 1 / 2, 1 / 3, 128 / 216, 0.496, 0.054, 0.5]
        np.testing.assert_allclose(walk.state(), np.float32(second))
        assert walk.take(0.3) == 0.25
        last = [*second[:7], 0.55, 0, 0.25]
        np.testing.assert_allclose(walk.state(), np.float32(last))
        assert walk.done
        assert walk.point() == Point((0.5, 0.25))

    def test_of_a_real_network(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4), nn.Linear(4, 2))
        assert layer_facts(net, "0.weight") == LayerFacts("convolution", 3, 2, 3, 216)
        assert layer_facts(net, "3.weight") == LayerFacts("linear", 32, 1, 1, 128)
        assert layer_facts(nn.Sequential(nn.BatchNorm2d(5)), "0.weight") == LayerFacts("other", 0, 1, 1, 5)
        images = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        setting = Setting(net.eval(), images[:1], default_forward, [images])
        walk = Walk(Subject(setting, options=Options(recover="none")).space, HALF)
        # its convolution may go down to one channel of eight, so rest is 1 - (108 + 4 + 2) / 1000
        np.testing.assert_allclose(walk.state(), np.float32([0, 0, 3 / 32, 1, 1, 1, 1, 0, 0.886, 1]))

    @pytest.mark.parametrize("kind", SPACES)
    def test_every_entry_is_between_0_and_1(self, kind: str) -> None:
        walk, generator = Walk(SPACES[kind], HALF), np.random.default_rng(0)
        for _ in range(20):
            walk.restart()
            while not walk.done:
                walk.take(float(generator.random()))
                state = walk.state()
                assert state.shape == (len(STATE),)
                assert state.dtype == np.float32
                assert ((state >= 0) & (state <= 1)).all()


class TestWall:
    def test_by_hand(self) -> None:
        """All channels would cost 864; 6 of 8, 648: both beyond 500 with the rest at its least."""
        walk = Walk(two_layers(), HALF)
        assert walk.take(1.0) == 0.5
        assert walk.take(1.0) == 0.75  # 432 + 64 + 8 = 504 is too much, 432 + 48 + 6 is not
        assert walk.space.cost(walk.point())["macs"] == 486

    @settings(max_examples=60, deadline=None)
    @given(
        kind=st.sampled_from(sorted(SPACES)),
        share=st.floats(0.02, 1.0),
        actions=st.lists(st.floats(-1.0, 2.0), min_size=5, max_size=5),
    )
    def test_whatever_comes_the_budget_is_met_where_it_can_be(
        self, kind: str, share: float, actions: list[float]
    ) -> None:
        space, budget = SPACES[kind], Budget(macs=share)
        least = space.cost(space.smallest(space.blocks, tuple(space.kernels)))["macs"]
        if least > share * space.dense_cost()["macs"] * (1 + 1e-9):
            with pytest.raises(UserError, match="out of this search's reach"):
                Walk(space, budget)
            return
        walk = Walk(space, budget)
        for action in actions:
            if not walk.done:
                walk.take(action)
        assert walk.done
        assert space.fits(walk.point(), budget)
        assert walk.point() == space.round(walk.point())

    @pytest.mark.parametrize("kind", ["widths", "multiples_of_four"])
    def test_it_clips_no_more_than_it_must(self, kind: str) -> None:
        """Asking for everything gives, group by group, the most that leaves the rest within reach."""
        space = SPACES[kind]
        walk, chosen = Walk(space, HALF), []
        for number, width in enumerate(space.widths):
            rest = [w.kept[0] for w in space.widths[number + 1 :]]
            fitting = [n for n in width.kept if space.fits(shares(space, [*chosen, n, *rest]), HALF)]
            chosen.append(max(fitting))
            assert walk.take(1.0) == chosen[-1] / width.size

    def test_every_point_within_the_budget_can_be_walked_to(self) -> None:
        space = two_layers()
        walk = Walk(space, HALF)
        for counts in itertools.product(*(w.kept for w in space.widths)):
            walk.restart()
            for action in walk.actions_of(shares(space, counts)):
                walk.take(action)
            assert (walk.point() == shares(space, counts)) == space.fits(shares(space, counts), HALF)

    def test_what_lies_in_a_block_that_goes_is_no_step(self) -> None:
        space = Space(
            two_layers().widths, two_layers().costs, ("block",), {"block.conv": 1 / 9},
            {"block": frozenset([1])}, {"block": frozenset([1])},
        )  # fmt: skip
        walk = Walk(space, Budget(macs=0.9))
        assert walk.take(0.1) == 0.0  # the block; its kernel and its group are passed over
        assert walk.take(0.75) == 0.75
        assert walk.done
        assert walk.point() == Point((0.75, 1.0), ("block",))
        walk.restart()
        assert [walk.take(action) for action in (0.5, 0.4, 0.5, 1.0)] == [1.0, 0.0, 0.5, 1.0]
        assert walk.point() == Point((0.5, 1.0), (), ("block.conv",))

    @pytest.mark.parametrize("action", [math.nan, math.inf, -math.inf])
    def test_an_action_that_is_no_number_is_refused(self, action: float) -> None:
        with pytest.raises(UserError, match="not a number"):
            Walk(two_layers(), HALF).take(action)

    def test_after_the_last_step_there_is_none(self) -> None:
        walk = Walk(two_layers(), HALF)
        walk.take(0.5)
        walk.take(0.5)
        with pytest.raises(UserError, match="over"):
            walk.take(0.5)


def shares(space: Space, counts: Any) -> Point:
    return Point(tuple(n / w.size for n, w in zip(counts, space.widths, strict=True)))


@pytest.mark.extras
class TestGymnasium:
    @pytest.fixture(autouse=True)
    def _gymnasium(self) -> None:
        pytest.importorskip("gymnasium")

    @staticmethod
    def worth(kind: str) -> Any:
        return lambda point: judged(SPACES[kind], point)

    @pytest.mark.parametrize("kind", SPACES)
    def test_layer_by_layer_passes_the_checker(self, kind: str) -> None:
        from gymnasium.utils.env_checker import check_env

        from neuroprune.search.environment import LayerEnvironment

        check_env(LayerEnvironment(SPACES[kind], HALF, self.worth(kind)), skip_render_check=True)

    @pytest.mark.parametrize("kind", SPACES)
    @pytest.mark.parametrize("per_group", [False, True])
    def test_round_by_round_passes_the_checker(self, kind: str, per_group: bool) -> None:
        from gymnasium.utils.env_checker import check_env

        from neuroprune.search.environment import RoundEnvironment

        environment = RoundEnvironment(SPACES[kind], self.worth(kind), HALF, per_group=per_group)
        check_env(environment, skip_render_check=True)

    def test_the_reward_comes_at_the_end_and_is_the_point_s(self) -> None:
        from neuroprune.search.environment import LayerEnvironment

        asked: list[Point] = []

        def worth(point: Point) -> Result:
            asked.append(point)
            return Result(50.0, -3.5, {}, True, 0.0)

        environment = LayerEnvironment(two_layers(), HALF, worth)
        environment.reset()
        _, reward, ended, truncated, info = environment.step(np.array([1.0], np.float32))
        assert (reward, ended, truncated, info) == (0.0, False, False, {"share": 0.5})
        _, reward, ended, _, info = environment.step(np.array([1.0], np.float32))
        assert (reward, ended) == (-3.5, True)
        assert asked == [Point((0.5, 0.75))]
        assert info["point"] == asked[0].to_json()
        assert info["result"]["score"] == 50.0

    def test_rounds_written_out(self) -> None:
        """Score 90, of it a point goes per tenth of a share; half of what is left, a quarter, everything."""
        from neuroprune.search.environment import RoundEnvironment

        space = two_layers()

        def worth(point: Point) -> Result:
            score = 90.0 - 10.0 * sum(1.0 - share for share in point.shares)
            return Result(score, score + 10.0 * space.removed_share(point), space.cost(point), True, 0.0)

        environment = RoundEnvironment(space, worth, rounds=3)
        state, _ = environment.reset()
        np.testing.assert_allclose(state, np.float32([0, 0, 0.9, 0, 0, 0.5]))
        state, reward, ended, *_ = environment.step(np.array([0.5], np.float32))
        # 4 channels, 2 neurons: 108 + 32 + 4 of 352 weights
        gone = 1 - 144 / 352
        assert reward == pytest.approx(-10.0 + 10.0 * gone)
        assert not ended
        gain = reward / 90.0
        np.testing.assert_allclose(
            state, np.float32([1 / 3, gone, 0.8, 0.1, 0.5, 0.5 + gain / (2 * (1 - gain))]), rtol=1e-6
        )
        environment.step(np.array([0.25], np.float32))
        assert environment.point == Point((0.5, 0.5))  # 3 channels: 2 and 4 are as near; 1.5 neurons: 2
        *_, ended, _, info = environment.step(np.array([1.0], np.float32))
        assert ended
        assert info["point"]["shares"] == [0.25, 0.25]
        with pytest.raises(UserError, match="over"):
            environment.step(np.array([0.5], np.float32))

    def test_the_rewards_of_the_rounds_add_up_and_the_last_meets_the_budget(self) -> None:
        from neuroprune.search.environment import RoundEnvironment

        space, generator = SPACES["widths"], np.random.default_rng(0)
        environment = RoundEnvironment(space, self.worth("widths"), HALF, rounds=4, per_group=True)
        for scale in (0.0, 0.1, 1.0):
            environment.reset()
            total = 0.0
            for _ in range(4):
                action = (scale * generator.random(3)).astype(np.float32)
                total += environment.step(action)[1]
            last = environment.point
            assert space.fits(last, HALF)
            assert total == pytest.approx(judged(space, last).reward - judged(space, space.whole()).reward)

    def test_what_cannot_be_is_refused(self) -> None:
        from neuroprune.search.environment import LayerEnvironment, RoundEnvironment

        space = SPACES["widths"]
        with pytest.raises(UserError, match="reach"):
            LayerEnvironment(space, Budget(macs=1e-6), self.worth("widths"))
        with pytest.raises(UserError, match="at least one round"):
            RoundEnvironment(space, self.worth("widths"), rounds=0)
        environment = RoundEnvironment(space, self.worth("widths"))
        environment.reset()
        with pytest.raises(UserError, match="not a number"):
            environment.step(np.array([math.nan], np.float32))
