"""All units that can be removed, residual streams and heads among them, under one threshold."""

from __future__ import annotations

from neuroprune.pruning.allocate import Scope
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._cutting import cut_and_train, is_any


@TECHNIQUES.register(
    "structured",
    summary="channels, neurons and heads, coupled ones together, by the loss's first-order change; cut",
    source="S2; Molchanov et al. 2019, Importance estimation for neural network pruning",
)
def structured(
    setting: Setting,
    *,
    criterion: str = "taylor",
    scope: Scope = "global",
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Thinned:
    """As ``filter``, but nothing that the engine can prove is left out."""
    return cut_and_train(setting, is_any, "units", criterion=criterion, scope=scope, keep=keep, round_to=round_to)
