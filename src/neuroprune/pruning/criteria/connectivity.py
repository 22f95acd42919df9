"""Strength of the paths from the inputs to the outputs that lead through a weight; needs no data."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "synflow",
    summary="summed strength (product of |weights|) of all paths through the weight",
    source="Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow",
    needs=("paths",),
)
def synflow(view: WeightView) -> Tensor:
    """|w dR/dw| with R the sum of all outputs of the network of |w| for an input of ones."""
    assert view.path_gradient is not None
    return (view.weight * view.path_gradient).abs()


@criterion(
    "connectivity",
    summary="summed squared strength of all paths through the weight: few strong paths count more than many weak",
    source="Gebhart et al. 2021, A unified paths perspective for pruning at initialization (SynFlow-L2)",
    needs=("paths",),
)
def connectivity(view: WeightView) -> Tensor:
    """|w^2 dR/d(w^2)| with R the sum of all outputs of the network of w^2 for an input of ones."""
    assert view.squared_path_gradient is not None
    return (view.weight.square() * view.squared_path_gradient).abs()
