"""Weights in groups: blocks that sparse kernels read, N:M, kernels, rows and columns, groups of a convolution."""

from __future__ import annotations

from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import sparse


@TECHNIQUES.register(
    "group",
    summary="weights in blocks of 4x1 (or 2:4, kernel, row, column, groups:G)",
    source="S2 (group-wise pruning); 2:4: Mishra et al. 2021, Accelerating sparse deep neural networks",
)
def group_wise(
    setting: Setting,
    *,
    shape: str = "4x1",
    criterion: str = "l2",
    schedule: str = "cubic",
    spread: Spread = "erk",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``shape``: see `patterns.pattern`. N:M has one density, which the setting must ask for."""
    return sparse(setting, shape=shape, criterion=criterion, schedule=schedule, spread=spread, keep=keep)
