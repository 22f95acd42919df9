"""What the loss does without the unit, measured."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, unit_criterion


@unit_criterion(
    "sensitivity",
    summary="measured change of the loss, or without one of the outputs, when the unit is off",
    source="S3: sensitivity-based pruning; Mozer, Smolensky 1988, Skeletonization",
    needs=("loss",),
    zero_is_lowest=False,
    absolute=True,
)
def sensitivity(view: GroupView) -> Tensor:
    """L(without the unit) - L; less than zero, the score of a unit of zeros, where the loss falls without it."""
    return view.loss_change if view.loss_change is not None else torch.empty(0)
