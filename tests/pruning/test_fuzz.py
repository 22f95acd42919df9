"""Random networks: every cut is exact or refused with a reason, and nothing of ours ever raises."""

from __future__ import annotations

import collections

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroprune.pruning import prune
from neuroprune.testing import assert_exact
from neuroprune.testing.networks import BLOCKS, RandomNetwork

GENES = st.lists(st.integers(0, 6 * BLOCKS), min_size=2, max_size=14)
OUTCOMES: collections.Counter[str] = collections.Counter()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(GENES, st.sampled_from([0.3, 0.5, 0.75]), st.integers(0, 5))
def test_random_networks_are_cut_exactly(genes: list[int], ratio: float, seed: int) -> None:
    model = RandomNetwork(genes, seed=seed)
    inputs = torch.randn(2, 3, 5, 5)
    result = prune(model, inputs, ratio=ratio, criterion="random", seed=seed)
    assert_exact(model, result.model, result.plan, inputs)
    OUTCOMES["refused" if any(r.operator == "verify" for r in result.refused) else "exact"] += 1
    OUTCOMES["cut" if result.plan.removed else "whole"] += 1


def test_few_networks_needed_the_safety_net() -> None:
    """Groups that only the oracle stopped are compression lost: the rules should have known better."""
    total = OUTCOMES["refused"] + OUTCOMES["exact"]
    assert total >= 300
    assert OUTCOMES["refused"] <= 0.05 * total
    assert OUTCOMES["cut"] >= 0.9 * total
