"""First-order Taylor expansion of the loss: what it would change by if the weights were zero."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, WeightView, average, criterion, unit_criterion

_SOURCE = "Molchanov et al. 2019, Importance estimation for neural network pruning"


@criterion(
    "taylor",
    summary="squared first-order change of the loss, (gradient x weight)^2",
    source=_SOURCE,
    needs=("gradients",),
)
def taylor(view: WeightView) -> Tensor:
    """(g w)^2: the changes of a unit's weights are taken as independent."""
    assert view.gradient is not None
    return (view.gradient * view.weight).square()


@unit_criterion(
    "taylor_filter",
    summary="squared first-order change of the loss by a whole filter, (sum of gradient x weight)^2",
    source=_SOURCE,
    needs=("gradients",),
)
def taylor_filter(view: GroupView) -> Tensor:
    """(sum of g w over the filter)^2: its weights go together, so their changes may cancel."""
    return average((part.gradients * part.weights).sum(1).square() for part in view.rows)


@unit_criterion(
    "taylor_gate",
    summary="squared first-order change of the loss by the batch norm as a gate on the channel",
    source=_SOURCE,
    needs=("gradients",),
    looks="scales",
)
def taylor_gate(view: GroupView) -> Tensor:
    """(gamma dL/dgamma + beta dL/dbeta)^2, summed over the unit's channels and batch norms."""
    gates: dict[str, Tensor] = {}
    for part in (*view.parts_as("scale"), *view.parts_as("shift")):
        norm = part.view.name.rpartition(".")[0]
        gates[norm] = gates.get(norm, 0) + part.gradients * part.weights
    return torch.stack([gate.square().sum(1) for gate in gates.values()]).sum(0) if gates else torch.empty(0)
