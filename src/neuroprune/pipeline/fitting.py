"""Fit a ratio to the budget: bisection over measured candidates, in fp32 or in int8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuroprune.pipeline.candidates import Trial
from neuroprune.pipeline.context import Context, Correction

#: above this share of the units gone, accuracy is at stake, and int8 is asked whether it needs less
HEAVY = 0.6
#: ... and taken if it needs less by this much
GAIN = 0.1
#: how much further over its limits (as a share of them) a smaller cut may be than the least bad one
CLOSE = 0.05


@dataclass(frozen=True)
class Fit:
    """A trial (fp32 or int8), its ratio, how much longer to fine-tune, and whether int8 was tried as well."""

    trial: Trial
    ratio: float
    epochs_factor: int = 1
    int8_tried: bool = False


class Fitter:
    """Finds the fit; ``tried`` holds everything that was measured on the way."""

    def __init__(
        self,
        context: Context,
        make_trial: Callable[[str], Trial],
        *,
        highest: float,
        tolerance: float,
        has_int8: bool,
    ) -> None:
        self.context, self.make_trial = context, make_trial
        self.highest, self.tolerance, self.has_int8 = highest, tolerance, has_int8
        self.tried: list[tuple[Trial, float]] = []

    def first(self, asked: str) -> Fit:
        """``asked``: fp32, int8 or auto. Without a quantize step in the recipe it is always fp32."""
        if asked == "int8" and self.has_int8:
            return self._search("int8", 1)
        plain = self._search("fp32", 1)
        fits = not self.broken(plain.trial, plain.ratio)
        if asked != "auto" or not self.has_int8 or (fits and plain.ratio <= HEAVY):
            return plain
        small = self._search("int8", 1)
        return small if self._lighter(small, plain) else Fit(plain.trial, plain.ratio, int8_tried=True)

    def again(self, correction: Correction) -> Fit:
        """As a missed limit asks for; see `attempts.next_correction`."""
        assert correction.ratio is not None
        trial = self.make_trial(correction.variant or "fp32")
        if not correction.lighter:
            self.broken(trial, correction.ratio)
            return Fit(trial, correction.ratio, correction.epochs_factor, correction.int8_tried)
        small = self._search("int8", correction.epochs_factor)
        before = Fit(trial, correction.ratio, 2 * correction.epochs_factor, int8_tried=True)
        return small if self._lighter(small, before) else before

    def broken(self, trial: Trial, ratio: float) -> dict[str, float]:
        """The limits that this candidate breaks, by how much."""
        if (trial, ratio) not in self.tried:
            self.tried.append((trial, ratio))
            self.context.progress.advance(f"ratio {ratio:.3f} ({trial.variant})")
        return trial.broken(self.context, ratio)

    def _search(self, variant: str, epochs_factor: int) -> Fit:
        trial = self.make_trial(variant)
        # cutting nothing cannot make fp32 smaller than itself: no need to measure that
        shrinks = variant == "fp32" and any(limit.relative for limit in self.context.recipe.budget.limits)
        ratio = bisect(lambda ratio: self.broken(trial, ratio), self.highest, self.tolerance, zero_fails=shrinks)
        return Fit(trial, ratio, epochs_factor, int8_tried=variant == "int8")

    def _lighter(self, small: Fit, plain: Fit) -> bool:
        """Whether int8 comes closer to the budget, or meets it with clearly fewer units gone."""
        excess = [sum(self.broken(fit.trial, fit.ratio).values()) for fit in (small, plain)]
        if excess[0] != excess[1]:
            return excess[0] < excess[1]
        return small.ratio <= plain.ratio - GAIN


def bisect(
    broken: Callable[[float], dict[str, float]], highest: float, tolerance: float, *, zero_fails: bool = False
) -> float:
    """The smallest ratio in [0, highest] that breaks nothing, to ``tolerance``.

    Where all break something, the smallest of four that comes close to the least bad: beyond it more units
    would go (and accuracy with them) for next to nothing.

    >>> bisect(lambda r: {} if r >= 0.3 else {"latency": 1.0}, 0.9, 0.05)
    0.3094
    """
    if not zero_fails and not broken(0.0):
        return 0.0
    if broken(highest):
        rungs = [round(highest * part / 4, 4) for part in (1, 2, 3, 4)]
        excess = [sum(broken(ratio).values()) for ratio in rungs]
        return next(r for r, e in zip(rungs, excess, strict=True) if e <= min(excess) + CLOSE)
    low, high = 0.0, highest
    while high - low > tolerance:
        ratio = round((low + high) / 2, 4)
        low, high = (ratio, high) if broken(ratio) else (low, ratio)
    return high
