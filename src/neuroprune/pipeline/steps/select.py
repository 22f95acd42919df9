"""From scores to a selection at one ratio: units for a cut, or single weights under masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.pipeline.context import Context
from neuroprune.pipeline.granularity import RoundTo, round_to_of, shape_of
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.steps.score import statistics_of
from neuroprune.pruning.allocate import allocate
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.masks import Granularity
from neuroprune.pruning.score import saliencies
from neuroprune.pruning.select_weights import Spread


class SelectConfig(StepConfig):
    """``ratio`` of units (or weights) to remove; ``scope``: in each group alike, or one threshold for all.
    ``round_to``: kept counts are multiples of it. ``shape`` and ``spread``: of masks on single weights
    (`select_weights`). ``auto`` takes what the device's kernels compute, or skip, at a time."""

    granularity: Granularity = "filter"
    ratio: float = Field(0.5, ge=0, lt=1)
    shape: str = "weight"
    spread: Spread = "normalised"
    scope: Literal["local", "global"] = "local"
    round_to: RoundTo = 1
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()


@step(
    "select",
    SelectConfig,
    summary="choose what goes: filters or weights, at one ratio",
    source="S2, steps 4 and 5",
    needs=("scores",),
    gives=("selection",),
)
def select(context: Context, config: SelectConfig) -> Outcome:
    return _filters(context, config) if config.granularity == "filter" else _weights(context, config)


def _filters(context: Context, config: SelectConfig) -> Outcome:
    assert context.scores is not None
    context.plan = allocate(
        context.model,
        context.trace,
        context.scores,
        config.ratio,
        scope=config.scope,
        round_to=round_to_of(context, config.round_to),
        minimum=config.minimum,
        keep=config.keep,
        criterion=context.facts["criterion"],
        constraint=f"ratio={config.ratio:g}",
    )
    gone = sum(len(d.removed) for d in context.plan.decisions)
    units = sum(len(d.removed) + len(d.kept) for d in context.plan.decisions)
    return Outcome(f"{gone} of {units} units go ({config.scope}, ratio {config.ratio:g})")


def _weights(context: Context, config: SelectConfig) -> Outcome:
    name = context.facts["criterion"]
    statistics = statistics_of(context, name, 16)
    masks = masks_of(context, "weight")
    saliency = saliencies(context.model, CRITERIA.get(name), statistics, context.seed)
    shape = shape_of(context, config.shape)
    spared = masks.switch_weights(saliency, config.ratio, shape=shape, spread=config.spread)
    context.masks, context.granularity = masks.state(), "weight"
    notes = [f"{name} would have been emptied: its best weights stay" for name in spared]
    return Outcome(f"{masks.sparsity():.1%} of the weights are off", pieces={"notes": notes})
