"""Weight magnitude."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "l1",
    summary="sum of absolute weights",
    source="Li et al. 2017, Pruning filters for efficient ConvNets",
    elementwise=True,
)
def l1(view: WeightView) -> Tensor:
    return view.weight.abs()


@criterion("l2", summary="sum of squared weights", source="He et al. 2018, Soft filter pruning", elementwise=True)
def l2(view: WeightView) -> Tensor:
    return view.weight.square()
