"""One threshold for the scores of all units."""

from __future__ import annotations

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.allocations._levels import least_level, under_one_threshold
from neuroprune.budget.problem import Problem

#: the criterion that `neuroprune prune` takes when none is named
CRITERION = "l2"


@ALLOCATIONS.register(
    "global",
    summary="one threshold for the l2 scores of all groups, each relative to its group's mean",
    source="Liu et al. 2017, Network slimming",
)
def global_(problem: Problem) -> np.ndarray:
    return least_level(problem, under_one_threshold(problem.known.scores(CRITERION)))
