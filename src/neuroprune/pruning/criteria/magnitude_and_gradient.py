"""The filter criterion of system S4."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, average, relative, unit_criterion


@unit_criterion(
    "magnitude_and_gradient",
    summary="under a threshold only where the filter's weights and its gradients both are",
    source="S4: filters whose weight magnitude and gradient are under a threshold",
    needs=("gradients",),
)
def magnitude_and_gradient(view: GroupView) -> Tensor:
    """max(sum |w|, sum |g|), each relative to its mean over the filters: below t where both are."""
    return average(
        torch.maximum(relative(part.weights.abs().sum(1)), relative(part.gradients.abs().sum(1)))
        for part in view.rows
    )
