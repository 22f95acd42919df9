"""Find the smallest uniform ratio that meets the budget, by bisection over measured candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neuroprune.budget.target import multiple_for
from neuroprune.pipeline.candidates import Allocation, Trial, row
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.fitting import Fitter
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.verdict import Figures, binding


class FitBudgetConfig(StepConfig):
    """``variant``: whose figures must meet the budget. ``auto``: the fp32 network's; where that takes more than
    60 % of the units, or is not enough, the int8 network's if that takes less (and the recipe quantizes).
    ``round_to``: kept counts are multiples of it; ``auto`` chooses by the runtime's kernels."""

    variant: Literal["auto", "fp32", "int8"] = "auto"
    scope: Literal["local", "global"] = "local"
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()
    max_ratio: float = Field(0.95, gt=0, lt=1)
    tolerance: float = Field(0.02, gt=0, lt=1)
    margin: float = Field(0.03, ge=0)
    seconds: float = Field(1.0, gt=0)
    threads: int = Field(1, ge=1)
    calibration: int = Field(64, ge=1)
    batches: int = Field(16, ge=1)

    def trial(self, context: Context, variant: str) -> Trial:
        kinds = {limit.kind for limit in context.recipe.budget.limits}
        device = context.recipe.header.device
        blocks = [multiple_for(group, kinds, variant, device) for group in context.trace.groups]
        round_to = min(blocks, default=1) if self.round_to == "auto" else self.round_to
        allocation = Allocation(self.scope, round_to, self.minimum, self.keep)
        return Trial(allocation, variant, self.margin, self.seconds, self.threads, self.calibration, self.batches)


@step(
    "fit_budget",
    FitBudgetConfig,
    summary="bisection over a uniform ratio until measured candidates meet the budget",
    source="S3 (hardware-aware pruning, automated ratio choice)",
    needs=("masks", "scores"),
    gives=("selection",),
)
def fit_budget(context: Context, config: FitBudgetConfig) -> Outcome:
    has_int8 = "quantize" in [call.name for call in context.recipe.steps]
    fitter = Fitter(
        context,
        lambda variant: config.trial(context, variant),
        highest=config.max_ratio,
        tolerance=config.tolerance,
        has_int8=has_int8,
    )
    correction = context.correction
    fit = fitter.first(config.variant) if correction is None else fitter.again(correction)
    trial, ratio = fit.trial, fit.ratio
    broken = trial.broken(context, ratio)
    dense, figures = trial.figures(context, ratio)
    constraint = _tightest(context, figures, dense)
    context.plan = trial.allocation.plan(context, ratio, constraint)
    facts = {
        "ratio": ratio,
        "variant": trial.variant,
        "has_int8": has_int8,
        "int8_tried": fit.int8_tried,
        "max_ratio": config.max_ratio,
        "epochs_factor": fit.epochs_factor,
        "reached": not broken,
        "binding": binding(broken),
    }
    state = "meets" if not broken else f"is the best that was reached ({binding(broken)} is missed) for"
    if ratio == 0:
        state = f"{state} (nothing has to be cut)"
    return Outcome(
        f"ratio {ratio:.3f} ({trial.variant}) {state} {context.recipe.budget}; {len(fitter.tried)} candidates",
        facts={"fit": facts},
        pieces={
            "candidates": [row(t, r, t.figures(context, r)[1], (t, r) == (trial, ratio)) for t, r in fitter.tried]
        },
    )


def _tightest(context: Context, figures: Figures, dense: Figures) -> str:
    """The limit that the chosen candidate comes closest to: what bound the choice."""
    shares = {}
    for limit in context.recipe.budget.limits:
        value, reference = getattr(figures, limit.kind), getattr(dense, limit.kind)
        if value is not None and (reference is not None or not limit.relative):
            shares[str(limit)] = value / limit.absolute(reference or 0.0)
    return max(shares, key=lambda name: shares[name]) if shares else str(context.recipe.budget)
