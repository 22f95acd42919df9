"""Allocation: written-out choices, nesting, bounds."""

from __future__ import annotations

import numpy as np
import torch
from graph.nets import Residual
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.graph import trace
from neuroprune.pruning import allocate, score

MODEL = Residual()
TRACE = trace(MODEL, torch.randn(1, 3, 8, 8))
SCORES = score(MODEL, TRACE, "random", seed=3)


def test_local_removes_the_lowest_scores_of_each_group() -> None:
    scores = {"stem": np.array([5, 1, 4, 2, 8, 7, 6, 3.0]), "b": np.arange(16.0)}
    plan = allocate(MODEL, TRACE, scores, 0.25)
    assert [(d.group, d.removed) for d in plan.decisions] == [("stem", (1, 3)), ("b", (0, 1, 2, 3))]
    assert plan.removed["stem.weight"] == {0: (1, 3)}
    assert plan.removed["head.weight"] == {1: (0, 1, 2, 3)}
    assert plan.decisions[0].threshold == 3.0


def test_global_uses_one_threshold() -> None:
    scores = {"stem": np.full(8, 10.0), "b": np.arange(16.0) / 10}
    plan = allocate(MODEL, TRACE, scores, 0.5, scope="global")
    assert [len(d.removed) for d in plan.decisions] == [0, 12]


def test_counts_are_rounded_up_to_the_multiple_and_kept_groups_stay() -> None:
    plan = allocate(MODEL, TRACE, SCORES, 0.6, round_to=4, keep=["b"])
    assert [len(d.kept) for d in plan.decisions] == [4, 16]
    assert plan.decisions[1].reason == "kept by the user"


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.sampled_from(["local", "global"]),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_plans_are_nested_and_never_empty_a_group(a, b, scope, round_to, minimum) -> None:
    small, large = (
        allocate(MODEL, TRACE, SCORES, r, scope=scope, round_to=round_to, minimum=minimum) for r in sorted([a, b])
    )
    for one, other in zip(small.decisions, large.decisions, strict=True):
        assert set(one.removed) <= set(other.removed)
        assert len(other.kept) >= minimum
        assert len(other.kept) % round_to == 0 or len(other.kept) == len(other.scores)
        assert sorted(other.kept + other.removed) == list(range(len(other.scores)))
