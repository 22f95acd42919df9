"""Neurons: outputs of linear layers."""

from __future__ import annotations

from neuroprune.pruning.allocate import Scope
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._cutting import cut_and_train, is_neurons


@TECHNIQUES.register(
    "neuron",
    summary="neurons of linear layers that are seldom active; cut",
    source="S2; Hu et al. 2016, Network trimming",
)
def neuron(
    setting: Setting,
    *,
    criterion: str = "apoz",
    scope: Scope = "local",
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Thinned:
    """The same cut as for filters, of networks that have inner linear layers."""
    return cut_and_train(
        setting, is_neurons, "neurons", criterion=criterion, scope=scope, keep=keep, round_to=round_to
    )
