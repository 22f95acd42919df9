"""Find what can be removed, give it masks of ones, and keep the weights that undoing needs."""

from __future__ import annotations

from dataclasses import asdict

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.trace import Trace
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pruning.masks import Granularity, Masks
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.tasks.task import Accuracy, logits_of


class InitialiseConfig(StepConfig):
    """``granularity``: masks over whole units (which a cut can remove) or over single weights."""

    granularity: Granularity = "filter"


@step(
    "initialise",
    InitialiseConfig,
    summary="trace the removable units, masks of ones, keep the original weights",
    source="S1, stage 1; S2, step 2",
    gives=("masks",),
)
def initialise(context: Context, config: InitialiseConfig) -> Outcome:
    trace = context.trace
    if not trace.groups and config.granularity == "filter":
        raise _nothing_to_remove(trace)
    masks = masks_of(context, config.granularity)
    context.masks, context.granularity = masks.state(), config.granularity
    save_undo(context.folder.undo, context.dense, Plan.identity(context.dense))
    units = sum(group.size for group in trace.groups)
    values = sum(mask.numel() for mask in masks.masks.values())
    refused = [{key: asdict(r)[key] for key in REFUSAL} for r in trace.refused]
    metric, doubt = _dense_metric(context)
    return Outcome(
        f"{len(trace.groups)} groups with {units} units, masks over {values:,} values; "
        f"{len(refused)} dimensions stay whole" + (f"; {doubt}" if doubt else ""),
        facts={"dense_metric": metric},
        pieces={"refused": refused, "notes": [doubt] if doubt else []},
    )


def _nothing_to_remove(trace: Trace) -> UserError:
    """Names the first operator that is in the way, preferably one that has no rule or failed its proof."""
    telling = [r for r in trace.refused if r.operator not in ("output", "convolution", "addmm", "mm")]
    first = next(iter(telling or trace.refused), None)
    if first is None:
        return UserError(
            "nothing in this network can be removed: it has no inner layers",
            mend="give a network with one or more",
        )
    return UserError(
        f"nothing in this network can be removed: {first.parameter}: {first.reason}",
        where=first.where or first.module or None,
        value=f"operator {first.operator}",
        mend="see all refusals with `neuroprune inspect`, or neuroprune.trace(model, example_inputs).refused",
    )


def _dense_metric(context: Context) -> tuple[float, str]:
    """The dense network's metric on val, and a doubt where a classifier knows no more than chance."""
    task = context.task
    value = context.facts.get("dense_metric")
    value = task.evaluate(context.dense, task.val) if value is None else float(value)
    if not isinstance(task.evaluate, Accuracy):
        return value, ""
    with evaluation(context.dense):
        classes = logits_of(context.dense(*task.example_inputs)).shape[1]
    if value >= 200.0 / classes:
        return value, ""
    return value, (
        f"the dense network's accuracy is {value:.1f} %, hardly more than chance: are its weights loaded? "
        "(--weights FILE, or --train-epochs N)"
    )


#: the fields of a refusal that the report shows
REFUSAL = ("parameter", "operator", "module", "where", "reason")


def masks_of(context: Context, granularity: Granularity) -> Masks:
    """Fresh masks over the current model, in the state the context remembers."""
    unit = granularity == "filter"
    masks = Masks.for_units(context.model, context.trace) if unit else Masks.for_weights(context.model)
    if context.masks is not None and context.granularity == granularity:
        masks.load_state(context.masks)
    return masks
