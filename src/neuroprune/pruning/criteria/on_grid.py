"""Magnitude as an integer type will see it: in steps of the quantiser's grid."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion

#: of 4-bit symmetric weights: -7..7; what rounds to zero there is the half of the weights that 8 bits round to
#: 0..8
LEVELS = 7


@criterion(
    "on_grid",
    summary="|weight| in steps of a 4-bit grid of its row: what rounds to zero goes first",
    source="S2: quantisation-aware pruning; grid as in Jacob et al. 2018",
)
def on_grid(view: WeightView) -> Tensor:
    """Steps of max |row| / 7, rounded; among equals by a thousandth of the magnitude before rounding."""
    size = view.weight.abs()
    largest = size.flatten(1).amax(1).clamp_min(1e-30).reshape(-1, *[1] * (size.dim() - 1))
    steps = size / largest * LEVELS
    return steps.round() + steps / 1000
