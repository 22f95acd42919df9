"""Density by the shape of the kernel: Erdos-Renyi-kernel."""

from __future__ import annotations

import math

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.allocations._levels import least_level
from neuroprune.budget.problem import Problem


@ALLOCATIONS.register(
    "erk",
    summary="density of a layer in proportion to (n_in + n_out + kh + kw) / (n_in n_out kh kw)",
    source="Evci et al. 2020, Rigging the lottery",
)
def erk(problem: Problem) -> np.ndarray:
    """A group keeps the mean density of the layers it is the outputs of: min(1, eps d); level 1 is eps = 0.

    Groups that are the outputs of no layer with a matrix (an embedding's) go by the layers that read them.
    """
    densities = _densities(problem)
    sizes = np.array([group.size for group in problem.groups], dtype=np.float64)
    most = 1 / min((float(each.min()) for each in densities), default=1.0)  # no density is under one here

    def wanted(level: float) -> np.ndarray:
        kept = [np.minimum(1, most * (1 - level) * each).mean() for each in densities]
        removed: np.ndarray = sizes * (1 - np.array(kept))
        return removed

    return least_level(problem, wanted)


def _densities(problem: Problem) -> list[np.ndarray]:
    """Per group, the raw densities of its layers (at eps = 1)."""
    shapes = {name: tuple(p.shape) for name, p in problem.known.dense.named_parameters()}
    made: list[list[float]] = [[] for _ in problem.groups]
    read: list[list[float]] = [[] for _ in problem.groups]
    for layer in problem.costs.layers:
        shape = shapes[layer.name]
        density = sum(shape) / math.prod(shape)
        for parts, found in ((layer.rows, made), (layer.columns, read)):
            for part in parts:
                found[part.group].append(density)
    return [np.array(rows or columns or [1.0]) for rows, columns in zip(made, read, strict=True)]
