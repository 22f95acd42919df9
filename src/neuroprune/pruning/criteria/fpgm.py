"""Distance from the other filters."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, average, unit_criterion


@unit_criterion(
    "fpgm",
    summary="summed distance of the filter from all others of its layer: what others can stand in for goes",
    source="He et al. 2019, Filter pruning via geometric median for deep CNNs acceleration",
    zero_is_lowest=False,
)
def fpgm(view: GroupView) -> Tensor:
    """sum_j ||F_i - F_j||_2; a filter of zeros may well be the farthest from the rest."""
    exact = "donot_use_mm_for_euclid_dist"  # equal filters have distance 0, not a rounding error
    return average(torch.cdist(part.weights, part.weights, compute_mode=exact).sum(1) for part in view.rows)
