"""Layer-adaptive magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "lamp",
    summary="squared weight over the sum of all squares in its layer that are not smaller",
    source="Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning",
)
def lamp(view: WeightView) -> Tensor:
    """w_u^2 / sum of w_v^2 over |w_v| >= |w_u|, weights of equal size included in each other's sum."""
    squares = view.weight.double().square().flatten()
    levels, place = torch.unique(squares, return_inverse=True)  # ascending
    per_level = torch.zeros_like(levels).index_add_(0, place, squares)
    not_smaller = per_level.flip(0).cumsum(0).flip(0)
    shares = levels / not_smaller.clamp_min(torch.finfo(levels.dtype).tiny)
    scores: Tensor = shares[place].reshape(view.weight.shape)
    return scores
