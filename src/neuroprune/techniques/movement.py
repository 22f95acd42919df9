"""Single weights by where training takes them."""

from __future__ import annotations

import copy

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.schedules import Schedule
from neuroprune.pruning.select_weights import Spread
from neuroprune.recover.hooks import MovementMasks
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import every, fraction_of, spared, train


@TECHNIQUES.register(
    "movement",
    summary="single weights that training moves towards zero, cubic schedule",
    source="Sanh, Wolf, Rush 2020, Movement pruning: adaptive sparsity by fine-tuning",
)
def movement(
    setting: Setting,
    *,
    schedule: str = "cubic",
    spread: Spread = "erk",
    begin: float = 0.1,
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``begin``: the share of the steps that is watched before the first weights go. Raises UserError where there
    is no training to watch."""
    if setting.fit.epochs == 0:
        raise UserError("movement is seen in training alone", value="epochs 0", mend="train for one epoch or more")
    model = copy.deepcopy(setting.model)
    masks = Masks.for_weights(model, keep)
    course = Schedule(schedule, target=fraction_of(setting, masks, model), begin=begin, end=0.75)
    hook = MovementMasks(masks, course, spread=spread, every=every(setting))
    trainings = train(setting, model, "training under masks", hook)
    return Thinned(model.eval(), masks=masks, trainings=trainings, notes=spared(hook.spared))
