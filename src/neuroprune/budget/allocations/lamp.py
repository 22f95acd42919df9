"""One threshold for the layer-adaptive magnitude of all units."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.allocations._levels import least_level, under_one_threshold
from neuroprune.budget.problem import Problem
from neuroprune.graph.units import Group


@ALLOCATIONS.register(
    "lamp",
    summary="one threshold for a unit's squared weights over those of all in its group that are not smaller",
    source="Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning",
)
def lamp(problem: Problem) -> np.ndarray:
    """LAMP with units in the place of weights and groups in that of layers: the largest of each scores 1."""
    scores = [lamp_scores(unit_squares(problem.known.dense, group)) for group in problem.groups]
    return least_level(problem, under_one_threshold(scores))


def lamp_scores(squares: np.ndarray) -> np.ndarray:
    """[units]: w_u^2 / sum of w_v^2 over |w_v| >= |w_u|, units of equal size included in each other's sum."""
    levels, place = np.unique(squares, return_inverse=True)
    not_smaller = np.cumsum((np.bincount(place) * levels)[::-1])[::-1]
    shares: np.ndarray = (levels / np.maximum(not_smaller, np.finfo(np.float64).tiny))[place]
    return shares


@torch.no_grad()
def unit_squares(model: nn.Module, group: Group) -> np.ndarray:
    """[units]: squared weights of the matrices and kernels that a unit has a part in, summed."""
    parameters, total = dict(model.named_parameters()), torch.zeros(group.size, dtype=torch.float64)
    for part in group.slices:
        parameter = parameters.get(part.tensor)
        if parameter is not None and parameter.dim() >= 2:
            indices = torch.as_tensor(part.indices)
            rows = parameter.double().cpu().transpose(0, part.dim).flatten(1).square().sum(1)
            total += rows[indices].sum(1)
    return total.numpy()
