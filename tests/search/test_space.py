"""The space: rounding, costs and scaling against enumeration by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.problem import Costs
from neuroprune.search.space import Point, Space, Width
from neuroprune.testing.strategy_contract import SPACES, space

SHARES = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(tuple)


def test_costs_are_products_of_widths_less_what_is_gone() -> None:
    found = SPACES["blocks_and_kernels"]  # layers of 10, 20, 30, 40 (the block) and 50 (the head), 3 beside them
    assert found.dense_cost() == {"macs": 153.0, "params": pytest.approx(150 / 7)}
    half = Point((0.5, 1.0, 1.0))
    assert found.cost(half)["macs"] == 153 - 5 - 10
    gone = Point((1.0, 1.0, 1.0), ("block",), ("layer1",))
    assert found.cost(gone)["macs"] == pytest.approx(153 - 40 - 20 * 8 / 9)
    assert found.cost(Point((0.5, 0.5, 0.5), ("block",), ("layer1",)))["macs"] == pytest.approx(
        3 + 5 + 20 / 4 / 9 + 30 / 4 + 25
    )


def test_points_are_rounded_to_the_nearest_allowed_counts_and_never_empty() -> None:
    found = SPACES["multiples_of_four"]
    assert found.counts(Point((0.7, 0.4))) == (4, 8)  # 5.6 is nearer to 4, 6.4 to 8
    assert found.counts(Point((0.001, 0.001))) == (4, 4)
    assert found.counts(Point((0.75, 0.625))) == (8, 12)  # halfway: the larger


@settings(max_examples=25)
@given(SHARES, st.floats(0.35, 1.0))
def test_scaled_points_fit_and_no_larger_factor_would(shares: tuple[float, ...], share: float) -> None:
    found = SPACES["widths"]
    budget = Budget(macs=share)
    point = found.scaled_to(Point(shares), budget)
    assert found.fits(point, budget)
    assert found.round(point) == point
    clipped = found.clip(Point(shares)).shares
    more = [found.round(Point(tuple(s * f for s in clipped))) for f in np.linspace(0, 1 / min(clipped), 200)]
    most = max((found.cost(p)["macs"] for p in more if found.fits(p, budget)), default=0.0)
    assert found.cost(point)["macs"] >= most - 1e-9


@given(SHARES)
def test_rounding_is_idempotent_and_json_keeps_a_point(shares: tuple[float, ...]) -> None:
    found = SPACES["blocks_and_kernels"]
    point = found.round(Point(shares, ("block",), ("layer1",)))
    assert found.round(point) == point
    assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert found.key(point) == found.key(Point.from_json(point.to_json()))


def test_what_lies_in_a_block_that_goes_makes_no_other_point() -> None:
    inner = Space(
        (Width("block.conv1", 4, (1, 2, 3, 4)),), Costs((), {"macs": (), "params": ()}, {"macs": 1.0}),
        ("block",), {"block.conv1": 1 / 9}, {"block": frozenset()}, {"block": frozenset([0])},
    )  # fmt: skip
    keys = {inner.key(Point((share,), ("block",), names)) for share in (0.25, 0.5, 1.0)
            for names in ((), ("block.conv1",))}  # fmt: skip
    assert keys == {(4, "block")}


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (Point((0.5, 0.5)), "another space"),
        (Point((0.5, math.nan, 0.5)), "not finite"),
        (Point((0.5, math.inf, 0.5)), "not finite"),
        (Point((0.5, 0.5, 0.5), ("blokc",)), "did you mean 'block'"),
        (Point((0.5, 0.5, 0.5), (), ("block",)), "no kernel"),
    ],
)
def test_bad_points_are_answered(point: Point, says: str) -> None:
    with pytest.raises(UserError, match=says):
        SPACES["blocks_and_kernels"].round(point)


@pytest.mark.parametrize("data", [None, {}, {"shares": "abc", "gone": [], "shrunk": []}, {"shares": [1]}, [1.0]])
def test_what_is_no_point_is_said_so(data: object) -> None:
    with pytest.raises(UserError, match="no point"):
        Point.from_json(data)


def test_budgets_out_of_reach_and_unknown_kinds() -> None:
    found = space()
    with pytest.raises(UserError, match="out of this search's reach"):
        found.check(Budget(macs=0.01))
    with pytest.raises(UserError, match="no cost of the kind 'latency'"):
        found.limits(Budget(latency=0.5))
    with pytest.raises(UserError, match="no width of this network"):
        found.scaled_to(found.whole(), Budget(macs=0.01))
    with pytest.raises(UserError, match="nothing to search"):
        Space((), found.costs)


def test_random_points_spread_over_the_space() -> None:
    found, generator = SPACES["blocks_and_kernels"], np.random.default_rng(0)
    points = [found.random(generator) for _ in range(200)]
    assert {len(p.gone) for p in points} == {len(p.shrunk) for p in points} == {0, 1}
    assert np.ptp([p.shares[0] for p in points]) > 0.8
    assert all(found.clip(p) == p for p in points)
