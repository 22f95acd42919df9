"""Bisection finds the threshold of any monotone cost, and says so where there is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuroprune.pipeline.fitting import bisect


@given(threshold=st.floats(0.0, 0.9), tolerance=st.floats(0.005, 0.2))
def test_finds_the_smallest_ratio_that_meets_the_budget(threshold: float, tolerance: float) -> None:
    asked: list[float] = []

    def broken(ratio: float) -> dict[str, float]:
        asked.append(ratio)
        return {} if ratio >= threshold else {"latency": threshold - ratio}

    found = bisect(broken, 0.9, tolerance)
    assert not broken(found)
    assert found - threshold <= tolerance + 1e-4  # ratios are rounded to four digits
    assert len(asked) <= 12


def test_nothing_is_cut_where_nothing_must_be() -> None:
    assert bisect(lambda ratio: {}, 0.9, 0.01) == 0.0


def test_the_least_bad_ratio_where_none_is_enough() -> None:
    assert bisect(lambda ratio: {"size": 2 - ratio}, 0.9, 0.01) == 0.9
    assert bisect(lambda ratio: {"size": 1 + ratio}, 0.9, 0.01) == 0.225  # costs that grow again


def test_no_more_goes_than_helps_where_none_is_enough() -> None:
    flat = {0.225: 0.9, 0.45: 0.33, 0.675: 0.3, 0.9: 0.3}  # the time of a call does not shrink with its network
    assert bisect(lambda ratio: {"latency": flat.get(ratio, 1.0)}, 0.9, 0.01) == 0.45


def test_zero_is_not_tried_where_it_cannot_do() -> None:
    asked: list[float] = []

    def broken(ratio: float) -> dict[str, float]:
        asked.append(ratio)
        return {"macs": 1.0} if ratio < 0.3 else {}

    bisect(broken, 0.9, 0.05, zero_fails=True)
    assert 0.0 not in asked
