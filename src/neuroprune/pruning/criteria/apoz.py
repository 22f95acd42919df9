"""How often a unit says anything."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, average, unit_criterion


@unit_criterion(
    "apoz",
    summary="share of a unit's activations that are not zero (one minus the average percentage of zeros)",
    source="Hu et al. 2016, Network trimming: a data-driven neuron pruning approach",
    needs=("activations",),
)
def apoz(view: GroupView) -> Tensor:
    """Counted where the activations are read: at the inputs of the layers that consume the unit. For ReLU and its
    like: behind other functions (GELU, sigmoid) nothing is ever zero, and all units score alike."""
    found = [(part, part.view.input_active) for part in view.columns]
    return average(part.of(active).mean(1) for part, active in found if active is not None)
