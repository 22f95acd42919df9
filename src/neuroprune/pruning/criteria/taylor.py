"""First-order Taylor expansion of the loss."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "taylor",
    summary="squared first-order change of the loss, (gradient x weight)^2",
    source="Molchanov et al. 2019, Importance estimation for neural network pruning",
    needs=("gradients",),
)
def taylor(view: WeightView) -> Tensor:
    assert view.gradient is not None
    return (view.gradient * view.weight).square()
