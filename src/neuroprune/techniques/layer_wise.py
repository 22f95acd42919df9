"""Whole blocks: layers between which nothing but a shortcut remains."""

from __future__ import annotations

import copy

from neuroprune.base.errors import UserError
from neuroprune.pruning.depth import prune_depth
from neuroprune.recover.statistics import reestimate_batch_norm
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import first_batches, train


@TECHNIQUES.register(
    "layer",
    summary="whole blocks with the least effect on the output; cut, then fine-tuned",
    source="S2 (layer-wise pruning); criteria of blocks: `neuroprune list block-criteria`",
)
def layer_wise(setting: Setting, *, criterion: str = "output_change", keep: tuple[str, ...] = ()) -> Thinned:
    """As few blocks as make the network small enough. Raises UserError where all of them do not."""
    inputs = setting.task.example_inputs
    limit = setting.density * sum(p.numel() for p in setting.model.parameters())
    for percent in range(2, 101, 2):
        found = prune_depth(
            copy.deepcopy(setting.model), inputs, min(percent / 100, 0.999), criterion=criterion, keep=keep,
            seed=setting.seed,
        )  # fmt: skip
        size = sum(p.numel() for p in found.model.parameters())
        if size <= limit:
            break
    else:
        raise UserError(
            "removing every block that can go does not make the network that small",
            where=f"model {type(setting.model).__name__}",
            value=f"{size:,} parameters stay, {int(limit):,} may",
            mend="give a larger density, or take a technique that makes layers narrower",
        )
    small = found.model
    reestimate_batch_norm(small, first_batches(setting), setting.task.forward)
    trainings = train(setting, small, "training without the blocks")
    gone = sorted(found.plan.bypassed)
    return Thinned(small.eval(), found.plan, trainings=trainings, facts={"blocks gone": gone})
