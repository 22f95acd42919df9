"""Sensitivity of the loss to a weight's connection."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "snip",
    summary="|gradient x weight|: how much the loss feels the connection",
    source="Lee et al. 2019, SNIP: Single-shot network pruning based on connection sensitivity",
    needs=("gradients",),
)
def snip(view: WeightView) -> Tensor:
    assert view.gradient is not None
    return (view.gradient * view.weight).abs()
