"""Dynamic sparse training: the sparsity stays, what is sparse changes."""

from __future__ import annotations

import copy
from typing import Literal

from neuroprune.pruning.masks import Masks
from neuroprune.pruning.select_weights import Spread
from neuroprune.recover.hooks import Regrowth
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import fraction_of, saliency_of, spared, train


@TECHNIQUES.register(
    "dynamic",
    summary="during training small weights go and others grow back where the gradient is large",
    source="S2 (dynamic pruning); Evci et al. 2020, Rigging the lottery (RigL); SET: Mocanu et al. 2018",
)
def dynamic(
    setting: Setting,
    *,
    criterion: str = "l1",
    grow: Literal["gradient", "random"] = "gradient",
    share: float = 0.3,
    exchanges: int = 20,
    spread: Spread = "erk",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``criterion``: what the first masks go by. ``share`` of a layer's weights is exchanged at first, less and
    less after that, ``exchanges`` times in all. At inference: `neuroprune cascade`."""
    model = copy.deepcopy(setting.model)
    masks = Masks.for_weights(model, keep)
    fraction = fraction_of(setting, masks, model)
    emptied = masks.switch_weights(saliency_of(setting, model, criterion), fraction, spread=spread)
    steps = len(setting.task.train) * setting.fit.epochs
    hook = Regrowth(masks, grow=grow, share=share, every=max(1, int(0.75 * steps) // max(exchanges, 1)),
    until=0.75,
                    seed=setting.seed)  # fmt: skip
    trainings = train(setting, model, "training with regrowth", hook)
    return Thinned(model.eval(), masks=masks, trainings=trainings, notes=spared(emptied))
