"""Pruning before training: masks chosen on the initial weights, then trained as long as the dense network was."""

from __future__ import annotations

import copy

import torch

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import fraction_of, held, saliency_of, spared


@TECHNIQUES.register(
    "before-training",
    summary="masks on the initial weights (SNIP, or SynFlow in many small steps), then training",
    source="S1 (before training); Lee et al. 2019, SNIP; Tanaka et al. 2020, SynFlow",
)
def before_training(
    setting: Setting,
    *,
    criterion: str = "snip",
    iterations: int | None = None,
    spread: Spread = "global",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``iterations``: masks are chosen in so many steps of equal ratio of what is left; default 100 for
    ``synflow`` (in one it cuts a layer off: Tanaka et al. 2020, 4), else 1. Raises UserError without the initial
    weights."""
    if setting.initial is None:
        raise UserError(
            "pruning before training starts from the weights before training, and they are not there",
            mend="give initial=: in a recipe, put the technique after a train step",
        )
    model = copy.deepcopy(setting.model)
    model.load_state_dict(setting.initial)
    masks = Masks.for_weights(model, keep)
    fraction = fraction_of(setting, masks, model)
    count = iterations or (100 if criterion == "synflow" else 1)
    emptied: tuple[str, ...] = ()
    for number in range(1, count + 1):
        saliency = {name: values.double() for name, values in saliency_of(setting, model, criterion).items()}
        # what is off may have a gradient, and must not come back
        alive = {name: torch.where(masks.masks[name] != 0, values, -1.0) for name, values in saliency.items()
                 if name in masks.masks}  # fmt: skip
        so_far = 1 - (1 - fraction) ** (number / count)
        emptied = masks.switch_weights(alive, so_far, spread=spread)
    trainings = held(setting, model, masks, "training from the initial weights")
    return Thinned(model.eval(), masks=masks, trainings=trainings, notes=spared(emptied))
