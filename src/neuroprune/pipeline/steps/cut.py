"""Remove physically what the selection switched off, after the oracle has proven the result equal."""

from __future__ import annotations

import math
from typing import Any

from neuroprune.base.errors import UserError
from neuroprune.graph.cost import cost
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.initialise import REFUSAL
from neuroprune.pruning.cut import prove
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.pruning.surgery import apply


class CutConfig(StepConfig):
    """Options of `cut`: none of its own; what goes was selected before."""


@step(
    "cut",
    CutConfig,
    summary="remove the selected units physically; proven equal to the masked network",
    source="S2, step 5; S4",
    needs=("selection",),
    gives=("cut",),
)
def cut(context: Context, config: CutConfig) -> Outcome:
    if context.plan is None:
        raise UserError(
            "there is nothing to cut: single weights were masked, and those cannot be removed physically",
            where=context.name,
            mend="use granularity: filter in the steps before, or leave the cut out",
        )
    before = cost(context.model, context.task.example_inputs)
    plan, verification, refused = prove(context.model, context.trace, context.plan, context.task.example_inputs)
    _undo(context, plan)
    layers = layer_sizes(context, plan)
    apply(plan, context.model)
    context.plan, context.is_cut, context.masks, context._trace = plan, True, None, None
    after = cost(context.model, context.task.example_inputs)
    return Outcome(
        f"{before.params:,} -> {after.params:,} parameters, {before.macs / max(after.macs, 1):.2f}x fewer MACs, "
        f"relative error {verification.max_relative_error:.1e} over {verification.values:,} values",
        facts={"cut_error": verification.max_relative_error},
        pieces={
            "layers": layers,
            "units": unit_rows(plan),
            "refused": [{key: vars(r)[key] for key in REFUSAL} for r in refused],
        },
    )


def _undo(context: Context, plan: Plan) -> None:
    """What restoring needs: the dense network, and the network as it was just before the cut."""
    save_undo(context.folder.undo / "before-cut", context.model, plan)
    save_undo(context.folder.undo, context.dense, plan)


def layer_sizes(context: Context, plan: Plan) -> list[dict[str, Any]]:
    """Units and parameters of every weight, before and after: ``layers`` of results.json."""
    rows = []
    for name, parameter in context.model.named_parameters():
        if parameter.dim() < 2:
            continue
        shape = list(parameter.shape)
        for dim, indices in plan.removed.get(name, {}).items():
            shape[dim] -= len(indices)
        left = 1
        for size in shape:
            left *= size
        rows.append(
            {
                "name": name,
                "before": parameter.shape[0],
                "after": shape[0],
                "params_before": parameter.numel(),
                "params_after": left,
            }
        )
    return rows


def unit_rows(plan: Plan) -> list[dict[str, Any]]:
    """Why each unit went or stayed: ``units`` of results.json."""
    rows = []
    for decision in plan.decisions:
        kept = set(decision.kept)
        finite = decision.threshold if math.isfinite(decision.threshold) else None
        for unit, value in enumerate(decision.scores):
            rows.append(
                {
                    "group": decision.group,
                    "unit": unit,
                    "score": value,
                    "threshold": finite,
                    "kept": unit in kept,
                    "reason": decision.reason,
                    "constraint": decision.constraint,
                }
            )
    return rows
