"""Single weights by their magnitude, one threshold for the whole network."""

from __future__ import annotations

from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import sparse


@TECHNIQUES.register(
    "magnitude",
    summary="single weights by magnitude, one threshold for all layers, cubic schedule",
    source="S2; Han et al. 2015, Learning both weights and connections; Zhu, Gupta 2017 (schedule)",
)
def magnitude(
    setting: Setting,
    *,
    criterion: str = "l1",
    schedule: str = "cubic",
    spread: Spread = "global",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """As ``weight``, but blind to the data: one-shot or iterative schedules are the classical variants."""
    return sparse(setting, criterion=criterion, schedule=schedule, spread=spread, keep=keep)
