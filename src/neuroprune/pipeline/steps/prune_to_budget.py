"""Prune to the budget without training: units, counts and a least-squares refit from unlabelled examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from neuroprune.budget.to_budget import ToBudgetResult, prune_to_budget
from neuroprune.pipeline.calibrating import CalibrationOptions, calibration, judged
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.cut import layer_sizes, unit_rows
from neuroprune.pipeline.steps.initialise import REFUSAL
from neuroprune.pruning.restore import save_undo


class PruneToBudgetConfig(CalibrationOptions):
    """As `neuroprune.prune_to_budget`; gradients inside blocks and through the network are steps of their own."""

    recover: Literal["none", "closed-form"] = "closed-form"
    allocation: str = "stream"
    depth: bool = True
    round_to: int = Field(1, ge=1)
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()


@step(
    "prune_to_budget",
    PruneToBudgetConfig,
    summary="remove units and blocks until the budget holds, refit by least squares; no labels, no training",
    source="Hassibi, Stork 1993; Kurtic et al. 2023 (structured OBS); ours (drift correction, allocation)",
    gives=("cut",),
)
def to_budget(context: Context, config: PruneToBudgetConfig) -> Outcome:
    result = prune_to_budget(
        context.model, calibration(context, config), context.recipe.budget, forward=context.task.forward,
        recover=config.recover, allocation=config.allocation, depth=config.depth, keep=config.keep,
        round_to=config.round_to, minimum=config.minimum, seed=context.seed, progress=context.progress,
    )  # fmt: skip
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
            "notes": list(result.notes),
        },
    )


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
