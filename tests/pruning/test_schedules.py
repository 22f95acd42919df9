"""Schedules: values by hand, monotone from start to target, and times out of order refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.pruning.schedules import SCHEDULES, Schedule


def test_half_way_by_hand() -> None:
    found = {name: Schedule(name, target=0.8, end=1.0).at(0.5) for name in SCHEDULES.names()}
    assert found == pytest.approx({"one-shot": 0.8, "iterative": 0.4, "cubic": 0.7, "cosine": 0.4})
    assert Schedule("cosine", target=0.8, end=1.0).at(0.25) == pytest.approx(0.4 * (1 - math.cos(math.pi / 4)))
    # Zhu, Gupta 2017: s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3
    late = Schedule("cubic", target=0.9, start=0.1, begin=0.2, end=0.6)
    assert late.at(0.3) == pytest.approx(0.9 + (0.1 - 0.9) * (1 - 0.1 / 0.4) ** 3)


@given(st.sampled_from(SCHEDULES.names()), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.99))
def test_never_falls_and_stays_between(name: str, one: float, two: float, time: float, target: float) -> None:
    schedule = Schedule(name, target=target, begin=min(one, two), end=max(one, two))
    assert schedule.at(1.0) == pytest.approx(target)
    assert -1e-12 <= schedule.at(time) <= target + 1e-12
    assert schedule.at(time) <= schedule.at(min(1.0, time + 0.05)) + 1e-12


@pytest.mark.parametrize(
    "options",
    [{"target": 1.0}, {"target": -0.1}, {"start": 2.0}, {"begin": 0.9, "end": 0.5}, {"end": 1.5}, {"begin": -0.1}],
)
def test_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="schedule"):
        Schedule("cubic", **options)  # type: ignore[arg-type]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="cubic"):
        Schedule("cubical")
