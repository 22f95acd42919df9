"""Measured curves in the place of errors: what the outputs lose when a group alone is cut."""

from __future__ import annotations

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.problem import Problem
from neuroprune.budget.solve import choose_counts


@ALLOCATIONS.register(
    "sensitivity",
    summary="least sum of the groups' measured curves (neuroprune sensitivity), under every budget at once",
    source="Li et al. 2017 (curves); Everett 1963 (prices)",
)
def sensitivity(problem: Problem) -> np.ndarray:
    return choose_counts(problem.known.curves(), problem.costs, problem.limits, problem.allowed).removed
