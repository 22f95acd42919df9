"""Filters of convolutions whose outputs no sum ties to others."""

from __future__ import annotations

from neuroprune.pruning.allocate import Scope
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._cutting import cut_and_train, is_filters


@TECHNIQUES.register(
    "filter",
    summary="filters by their l1 norm, the same share of every convolution; cut",
    source="S2; Li et al. 2017, Pruning filters for efficient ConvNets",
)
def filter_(
    setting: Setting,
    *,
    criterion: str = "l1",
    scope: Scope = "local",
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Thinned:
    """``scope``: ``local``, the same share everywhere, or ``global``, one threshold."""
    return cut_and_train(
        setting, is_filters, "filters", criterion=criterion, scope=scope, keep=keep, round_to=round_to
    )
