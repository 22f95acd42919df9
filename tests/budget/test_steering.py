"""The next limit to ask for: against worlds whose true cost is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune import Budget
from neuroprune.budget.depth import Choice
from neuroprune.budget.steering import TIGHT, Steering

ATTEMPTS = 6


def run(steering: Steering, world, budgets: tuple[str, ...] = ("latency",), grain: float = 1.0) -> list[float]:
    """A solver that cuts as little as the target allows, in steps of ``grain`` of 1000; ``world``: the model's
    figure -> share of the limit that is measured. Returns what was measured."""
    seen: list[float] = []
    for _ in range(ATTEMPTS):
        units = math.floor(min(steering.targets.values()) / grain + 1e-9) * grain
        choice = Choice(np.array([1000 - int(units)]), (), 0.0, dict.fromkeys(budgets, units))
        if steering.known(choice):
            break
        seen.append(world(units))
        if steering.saw(choice, dict.fromkeys(budgets, seen[-1])):
            break
    return seen


@given(st.floats(0.4, 2.5), st.floats(-0.2, 0.3), st.floats(200, 900), st.sampled_from([0.0, 0.03]))
def test_a_model_that_is_off_is_steered_to_its_limit(
    factor: float, offset: float, limit: float, noise: float
) -> None:
    """What is measured is a line through the model's figures that does not go through the origin."""
    steering = Steering({"latency": limit}, {"latency": noise}, {"latency": 1.0})
    seen = run(steering, lambda units: max(factor * units + offset * 300, 1.0) / limit)
    reachable = max(factor * 1.0 + offset * 300, 1.0) / limit <= 1 / (1 + noise)
    assert (steering.best is not None) or not reachable or len(seen) == ATTEMPTS
    if steering.best is not None:
        assert max(s for s in seen if s <= 1 / (1 + noise) + 1e-9) <= 1 / (1 + noise) + 1e-9


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("offset", [-60.0, 0.0, 60.0])
def test_it_uses_the_budget_up(factor: float, offset: float) -> None:
    steering = Steering({"latency": 400.0}, {"latency": 0.03}, {"latency": 10.0})
    seen = run(steering, lambda units: (factor * units + offset) / 400)
    assert len(seen) <= 5
    assert steering.best is not None
    assert TIGHT <= (factor * steering.best.costs["latency"] + offset) / 400 * 1.03 <= 1 + 1e-9


def test_an_exact_model_needs_one_measurement() -> None:
    for grain in (1.0, 130.0):  # also where coarse steps leave room
        steering = Steering({"macs": 400.0}, {"macs": 0.0}, {"macs": 10.0})
        assert len(run(steering, lambda units: units / 400, ("macs",), grain)) == 1
        assert steering.best is not None


def test_noise_leaves_room_for_the_next_measurement() -> None:
    """Measurements that are up to 3 % off: what was taken for good holds when it is measured again."""
    for seed in range(30):
        generator = np.random.default_rng(seed)
        steering = Steering({"latency": 400.0}, {"latency": 0.06}, {"latency": 10.0})
        run(steering, lambda u, g=generator: 1.2 * u / 400 * g.uniform(0.97, 1.03))  # type: ignore[misc]
        assert steering.best is not None
        true = 1.2 * steering.best.costs["latency"] / 400
        assert true * 1.03 <= 1.0
        assert true > 0.85


def test_what_failed_is_not_asked_for_again() -> None:
    """A step in the true cost: below 300 all is well, above nothing is."""
    steering = Steering({"latency": 400.0}, {"latency": 0.0}, {"latency": 10.0})
    seen = run(steering, lambda units: 0.9 if units < 300 else 1.05)
    assert steering.best is not None
    assert len(set(seen)) == 2
    assert steering.best.costs["latency"] < 300
    assert steering.best.costs["latency"] > 250


def test_the_least_is_tried_before_it_is_called_out_of_reach() -> None:
    steering = Steering({"latency": 5.0}, {"latency": 0.0}, {"latency": 100.0})
    assert run(steering, lambda units: units * 0.04 / 5)[-1] <= 1  # the model was too dear: it can be met
    assert steering.best is not None
    steering = Steering(
        {"latency": 5.0, "macs": 900.0}, {"latency": 0.0, "macs": 0.0}, {"latency": 100.0, "macs": 1.0}
    )
    for _ in range(ATTEMPTS):
        choice = Choice(np.array([900]), (), 0.0, {"latency": 100.0, "macs": 80.0})
        if steering.known(choice):
            break
        steering.saw(choice, {"latency": 17.0, "macs": 0.1})
    assert steering.best is None
    error = str(steering.unmet(Budget(latency="5ms", macs=900)))
    assert "latency" in error
    assert "macs" not in error
    assert "85ms" in error  # 17 times 5 ms is the least that was measured
