"""The scale of the batch norm behind a filter."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "bn_scale",
    summary="|gamma| of the batch norms on the channel",
    source="Liu et al. 2017, Learning efficient convolutional networks through network slimming",
    looks="scales",
)
def bn_scale(view: WeightView) -> Tensor:
    return view.weight.abs()
