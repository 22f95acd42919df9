"""How the fuzz tests draw their networks: the same on every machine, another set in every shard."""

from __future__ import annotations

from collections import Counter

import hypothesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroprune.testing.fuzz import examine
from neuroprune.testing.networks import GENES, RandomNetwork

DRAWN = st.lists(st.integers(0, GENES - 1), min_size=2, max_size=14)


def examine_shard(kind: type[RandomNetwork], shard: int, count: int) -> Counter[str]:
    """Examine ``count`` random networks; how many were cut, and how many needed the safety net."""
    outcomes: Counter[str] = Counter()

    @hypothesis.seed(shard)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(DRAWN, st.sampled_from([0.3, 0.5, 0.75]), st.integers(0, 5))
    def one(genes: list[int], ratio: float, seed: int) -> None:
        model = kind(genes, seed=seed)
        finding = examine(model, torch.randn(2, 3, 5, 5), ratio, seed=seed)
        outcomes.update(networks=1, cut=finding.cut, rescued=finding.rescued > 0)

    one()
    return outcomes
