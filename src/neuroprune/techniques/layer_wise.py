"""Whole blocks: layers between which nothing but a shortcut remains."""

from __future__ import annotations

from neuroprune.base.errors import UserError
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.cut import PruneResult
from neuroprune.pruning.depth import prune_depth, units_of
from neuroprune.recover.statistics import reestimate_batch_norm
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import first_batches, parameters, train


@TECHNIQUES.register(
    "layer",
    summary="whole blocks with the least effect on the output; cut, then fine-tuned",
    source="S2 (layer-wise pruning); criteria of blocks: `neuroprune list block-criteria`",
)
def layer_wise(setting: Setting, *, criterion: str = "output_change", keep: tuple[str, ...] = ()) -> Thinned:
    """As few blocks as make the network small enough. Raises UserError where all of them do not."""
    inputs, limit = setting.task.example_inputs, setting.density * parameters(setting.model)
    count = len(units_of(setting.model, find_blocks(setting.model, inputs, seed=setting.seed)[0]))

    def without(gone: int) -> PruneResult:
        ratio = min(gone / max(count, 1), 1 - 1e-12)
        return prune_depth(setting.model, inputs, ratio, criterion=criterion, keep=keep, seed=setting.seed)

    found, low, high = without(count), 0, count
    if parameters(found.model) > limit:
        raise UserError(
            "removing every block that can go does not make the network that small",
            where=f"model {type(setting.model).__name__}",
            value=f"{parameters(found.model):,} parameters stay, {int(limit):,} may",
            mend="give a larger density, or take a technique that makes layers narrower",
        )
    while high - low > 1:  # what goes at a count goes at every larger one
        middle = (low + high) // 2
        tried = without(middle)
        if parameters(tried.model) <= limit:
            found, high = tried, middle
        else:
            low = middle
    small = found.model
    reestimate_batch_norm(small, first_batches(setting), setting.task.forward)
    trainings = train(setting, small, "training without the blocks")
    gone = sorted(found.plan.bypassed)
    return Thinned(small.eval(), found.plan, trainings=trainings, facts={"blocks gone": gone})
