"""The same share of every group."""

from __future__ import annotations

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.allocations._levels import least_level
from neuroprune.budget.problem import Problem


@ALLOCATIONS.register("uniform", summary="the same share of every group", source="Zhu, Gupta 2017")
def uniform(problem: Problem) -> np.ndarray:
    sizes = np.array([group.size for group in problem.groups], dtype=np.float64)
    return least_level(problem, lambda level: level * sizes)
