"""Prune to the budget without training: units, counts and a least-squares refit from unlabelled examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from neuroprune.base.errors import UserError
from neuroprune.budget.target import Target
from neuroprune.budget.to_budget import ToBudgetResult, prune_to_budget
from neuroprune.devices.single_layer import Precision
from neuroprune.pipeline.calibrating import CalibrationOptions, calibration, judged
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.cut import layer_sizes, unit_rows
from neuroprune.pipeline.steps.initialise import REFUSAL
from neuroprune.pruning.restore import save_undo


class PruneToBudgetConfig(CalibrationOptions):
    """As `neuroprune.prune_to_budget`; gradients inside blocks and through the network are steps of their own.

    ``precision``: of the file whose latency, size and memory must meet the budget; ``auto``: int8 where the recipe
    quantizes (a network that int8 cannot express goes on in fp32), else fp32. ``threads``, ``seconds``: of each
    measurement of latency. ``tries``: other counts to try before the refit.
    """

    recover: Literal["none", "closed-form"] = "closed-form"
    allocation: str | tuple[str, ...] = "stream"
    depth: bool = True
    tries: int = Field(0, ge=0)
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()
    precision: Literal["auto", "fp32", "int8"] = "auto"
    threads: int = Field(1, ge=1)
    seconds: float = Field(2.0, gt=0)


@step(
    "prune_to_budget",
    PruneToBudgetConfig,
    summary="remove units and blocks until the budget holds, refit by least squares; no labels, no training",
    source="Hassibi, Stork 1993; Kurtic et al. 2023 (structured OBS); ours (drift correction, allocation)",
    gives=("cut",),
)
def to_budget(context: Context, config: PruneToBudgetConfig) -> Outcome:
    result, notes = _pruned(context, config)
    layers = layer_sizes(context, result.plan)
    save_undo(context.folder.undo / "before-cut", context.model, result.plan)
    save_undo(context.folder.undo, context.dense, result.plan)
    context.model, context.plan, context.is_cut, context._trace = result.model, result.plan, True, None
    return Outcome(
        f"{_costs(result)}, relative error {result.verification.max_relative_error:.1e}, {judged(context)}",
        facts={"criterion": "obs", "cut_error": result.verification.max_relative_error},
        pieces={
            "layers": layers,
            "units": unit_rows(result.plan),
            "refused": [{key: vars(r)[key] for key in REFUSAL} for r in result.refused],
            "recovered": refits(result),
            "notes": [*notes, *result.notes],
        },
    )


def _pruned(context: Context, config: PruneToBudgetConfig) -> tuple[ToBudgetResult, list[str]]:
    """The result, and what the user should know about its precision."""
    batches = calibration(context, config)
    first, *others = _precisions(context, config)
    try:
        return _in(context, config, batches, first), []
    except UserError as error:
        if not others:
            raise
        note = f"the budget was fitted by the {others[0]} file: with {first}, {error.what}"
        return _in(context, config, batches, others[0]), [note]


def _precisions(context: Context, config: PruneToBudgetConfig) -> list[Precision]:
    """What to try, in this order."""
    if config.precision != "auto":
        return [config.precision]
    quantizes = "quantize" in [call.name for call in context.recipe.steps]
    of_files = {limit.kind for limit in context.recipe.budget.limits} & {"latency", "size", "memory"}
    return ["int8", "fp32"] if quantizes and of_files else ["fp32"]


def _in(context: Context, config: PruneToBudgetConfig, batches: list[Any], precision: Precision) -> ToBudgetResult:
    target = Target(context.recipe.header.device, config.threads, precision, seconds=config.seconds)
    return prune_to_budget(
        context.model, batches, context.recipe.budget, forward=context.task.forward, recover=config.recover,
        allocation=config.allocation, depth=config.depth, tries=config.tries, keep=config.keep,
        round_to=config.round_to, minimum=config.minimum, target=target, seed=context.seed,
        progress=context.progress,
    )  # fmt: skip


def _costs(result: ToBudgetResult) -> str:
    return ", ".join(
        f"{kind} {now / dense:.3f} of dense (limit {limit / dense:.3f})"
        for kind, (dense, now, limit) in result.costs.items()
    )


def refits(result: ToBudgetResult) -> list[dict[str, Any]]:
    """Entries of ``recovered`` in results.json."""
    return [
        {"rung": "closed form", "layer": one.layer, "before": one.before, "after": one.after,
         "detail": f"damping {one.damping:.0e}"}
        for one in result.fitted
    ]  # fmt: skip
