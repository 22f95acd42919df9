"""Single weights, scored by what flows through them."""

from __future__ import annotations

from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import sparse


@TECHNIQUES.register(
    "weight",
    summary="single weights by |weight x input|, ever more of them while training goes on",
    source="S2 (weight pruning); S1 (activation tracking)",
)
def weight(
    setting: Setting,
    *,
    criterion: str = "activation",
    schedule: str = "cubic",
    spread: Spread = "erk",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``criterion``: any that scores single weights. ``schedule`` and ``spread``: see `Schedule`, `Spread`."""
    return sparse(setting, criterion=criterion, schedule=schedule, spread=spread, keep=keep)
