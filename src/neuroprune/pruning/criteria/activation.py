"""Activation tracking, the criterion of system S1 (Neuro Prune)."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "activation",
    summary="mean over samples of |weight x input|",
    source="Neuro Prune (S1): activation tracking",
    needs=("activations",),
)
def activation(view: WeightView) -> Tensor:
    assert view.input_magnitude is not None
    return view.weight.abs() * view.input_magnitude
