"""The least error, each layer's relative to the variance of the sum it writes to, under every budget at once."""

from __future__ import annotations

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.problem import Problem
from neuroprune.budget.solve import choose_counts


@ALLOCATIONS.register(
    "stream",
    summary="least error relative to the residual stream's variance, under every budget at once",
    source="Everett 1963 (prices); ours",
)
def stream(problem: Problem) -> np.ndarray:
    return choose_counts(problem.errors, problem.costs, problem.limits, problem.allowed).removed
