"""Find the smallest uniform ratio that meets the budget, by bisection over measured candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from neuroprune.pipeline.candidates import Allocation, Trial, row
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.verdict import Figures, binding


class FitBudgetConfig(StepConfig):
    """``variant``: whose figures must meet the budget. ``auto``: the fp32 network's, or, where even the largest
    ratio is not enough for that, the int8 network's (if the recipe quantizes)."""

    variant: Literal["auto", "fp32", "int8"] = "auto"
    scope: Literal["local", "global"] = "local"
    round_to: int = Field(1, ge=1)
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()
    max_ratio: float = Field(0.95, gt=0, lt=1)
    tolerance: float = Field(0.02, gt=0, lt=1)
    margin: float = Field(0.05, ge=0)
    seconds: float = Field(1.0, gt=0)
    threads: int = Field(1, ge=1)
    calibration: int = Field(64, ge=1)
    batches: int = Field(16, ge=1)

    def trial(self, variant: str) -> Trial:
        allocation = Allocation(self.scope, self.round_to, self.minimum, self.keep)
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
    trial, ratio, tried = _find(context, config, has_int8)
    broken = trial.broken(context, ratio)
    dense, figures = trial.figures(context, ratio)
    constraint = _tightest(context, figures, dense)
    context.plan = trial.allocation.plan(context, ratio, constraint)
    fit = {
        "ratio": ratio,
        "variant": trial.variant,
        "has_int8": has_int8,
        "max_ratio": config.max_ratio,
        "epochs_factor": context.correction.epochs_factor,
        "reached": not broken,
        "binding": binding(broken),
    }
    state = "meets" if not broken else f"is the best that was reached ({binding(broken)} is missed) for"
    return Outcome(
        f"ratio {ratio:.3f} ({trial.variant}) {state} {context.recipe.budget}; {len(tried)} candidates",
        facts={"fit": fit},
        pieces={"candidates": [row(t, r, t.figures(context, r)[1], (t, r) == (trial, ratio)) for t, r in tried]},
    )


def _find(
    context: Context, config: FitBudgetConfig, has_int8: bool
) -> tuple[Trial, float, list[tuple[Trial, float]]]:
    """The trial (fp32 or int8), its ratio, and everything that was tried on the way."""
    correction = context.correction
    asked = correction.variant or config.variant
    tried: list[tuple[Trial, float]] = []
    trial = config.trial("int8" if asked == "int8" and has_int8 else "fp32")

    def broken(ratio: float) -> dict[str, float]:
        if (trial, ratio) not in tried:
            tried.append((trial, ratio))
            context.progress.advance(f"ratio {ratio:.3f} ({trial.variant})")
        return trial.broken(context, ratio)

    if correction.ratio is not None:
        broken(correction.ratio)
        return trial, correction.ratio, tried
    # cutting nothing cannot make fp32 smaller than itself: no need to measure that
    shrinks = trial.variant == "fp32" and any(limit.relative for limit in context.recipe.budget.limits)
    ratio = bisect(broken, config.max_ratio, config.tolerance, zero_fails=shrinks)
    if broken(ratio) and asked == "auto" and has_int8:
        trial = config.trial("int8")
        ratio = bisect(broken, config.max_ratio, config.tolerance)
    return trial, ratio, tried


def bisect(
    broken: Callable[[float], dict[str, float]], highest: float, tolerance: float, *, zero_fails: bool = False
) -> float:
    """The smallest ratio in [0, highest] that breaks nothing, to ``tolerance``; where all do, the least bad.

    >>> bisect(lambda r: {} if r >= 0.3 else {"latency": 1.0}, 0.9, 0.05)
    0.3375
    """
    if not zero_fails and not broken(0.0):
        return 0.0
    if broken(highest):
        middle = round(highest / 2, 4)  # costs may grow again where rounding or tiny layers hurt the kernels
        return min((highest, middle), key=lambda r: sum(broken(r).values()))
    low, high = 0.0, highest
    while high - low > tolerance:
        ratio = round((low + high) / 2, 4)
        low, high = (ratio, high) if broken(ratio) else (low, ratio)
    return high


def _tightest(context: Context, figures: Figures, dense: Figures) -> str:
    """The limit that the chosen candidate comes closest to: what bound the choice."""
    shares = {}
    for limit in context.recipe.budget.limits:
        value, reference = getattr(figures, limit.kind), getattr(dense, limit.kind)
        if value is not None and (reference is not None or not limit.relative):
            shares[str(limit)] = value / limit.absolute(reference or 0.0)
    return max(shares, key=lambda name: shares[name]) if shares else str(context.recipe.budget)
