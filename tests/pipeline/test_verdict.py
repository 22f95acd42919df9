"""Limits against figures, worked out by hand."""

from __future__ import annotations

import pytest

from neuroprune.base.nouns import Budget
from neuroprune.pipeline.verdict import Figures, best, binding, misses

DENSE = Figures(params=1000, macs=5000, size=4000, latency=10.0, metric=90.0)


def test_all_limits_hold_exactly_at_the_limit() -> None:
    mine = Figures(params=500, macs=2500, size=1000, latency=5.0, metric=89.0)
    assert misses(mine, DENSE, Budget(latency=0.5, size="1KB", macs=0.5, params=0.5), 1.0) == {}


def test_excess_is_a_share_of_the_limit() -> None:
    mine = Figures(params=500, macs=2500, size=2000, latency=7.5, metric=87.0)
    broken = misses(mine, DENSE, Budget(latency=0.5, size="1KB", macs="2M"), 2.0)
    assert broken == pytest.approx({"latency": 0.5, "size": 1.0, "max_drop": 0.5})
    assert binding(broken) == "size"


def test_no_drop_allowed_counts_in_points() -> None:
    mine = Figures(None, None, None, None, 89.5)
    assert misses(mine, DENSE, Budget(), 0.0) == pytest.approx({"max_drop": 0.5})
    assert misses(mine, DENSE, Budget(), None) == {}


def test_unknown_figures_break_nothing() -> None:
    assert misses(Figures(None, None, None, None, None), DENSE, Budget(latency=0.5), 1.0) == {}


def test_a_better_network_is_no_drop() -> None:
    assert misses(Figures(1, 1, 1, 1, 95.0), DENSE, Budget(), 0.0) == {}


def test_binding_of_nothing_is_none() -> None:
    assert binding({}) is None


def test_best_breaks_least_then_is_fastest_then_smallest() -> None:
    slow = Figures(1, 1, 10, 9.0, 90.0)
    fast = Figures(1, 1, 20, 4.0, 90.0)
    small = Figures(1, 1, 5, 4.0, 90.0)
    assert best([(slow, {}), (fast, {})]) == 1
    assert best([(fast, {}), (small, {})]) == 1
    assert best([(slow, {"latency": 0.1}), (fast, {"max_drop": 0.2})]) == 0
    assert best([(fast, {}), (fast, {})]) == 0
