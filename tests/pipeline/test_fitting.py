"""Which network carries a budget, fp32 or int8, and what a correction does; the costs are made up."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from neuroprune.base.nouns import Budget
from neuroprune.base.progress import SilentProgress
from neuroprune.pipeline.context import Correction
from neuroprune.pipeline.fitting import Fitter


@dataclass(frozen=True)
class FakeTrial:
    """Meets the budget from ``enough`` on."""

    variant: str
    enough: float

    def broken(self, context: Any, ratio: float) -> dict[str, float]:
        return {} if ratio >= self.enough else {"latency": self.enough - ratio}


def fitter(*, fp32: float, int8: float, has_int8: bool = True) -> Fitter:
    context: Any = SimpleNamespace(progress=SilentProgress(), recipe=SimpleNamespace(budget=Budget(latency=0.5)))
    enough = {"fp32": fp32, "int8": int8}

    def make(variant: str) -> Any:
        return FakeTrial(variant, enough[variant])

    return Fitter(context, make, highest=0.9, tolerance=0.01, has_int8=has_int8)


def test_fp32_carries_a_light_budget_and_int8_is_not_even_measured() -> None:
    tried = fitter(fp32=0.4, int8=0.0)
    fit = tried.first("auto")
    assert fit.trial.variant == "fp32"
    assert 0.4 <= fit.ratio <= 0.41
    assert {trial.variant for trial, _ in tried.tried} == {"fp32"}


def test_int8_carries_a_heavy_budget_where_it_needs_less() -> None:
    fit = fitter(fp32=0.8, int8=0.0).first("auto")
    assert (fit.trial.variant, fit.ratio, fit.int8_tried) == ("int8", 0.0, True)


def test_int8_is_left_where_it_gains_nothing() -> None:
    fit = fitter(fp32=0.8, int8=0.85).first("auto")
    assert fit.trial.variant == "fp32"
    assert fit.int8_tried


def test_int8_where_fp32_cannot_do_it_at_all() -> None:
    assert fitter(fp32=2.0, int8=0.7).first("auto").trial.variant == "int8"
    closer = fitter(fp32=2.0, int8=1.5).first("auto")
    assert (closer.trial.variant, closer.ratio) == ("int8", 0.9)


def test_a_recipe_without_quantize_fits_fp32() -> None:
    for asked in ("auto", "fp32", "int8"):
        assert fitter(fp32=0.8, int8=0.0, has_int8=False).first(asked).trial.variant == "fp32"
    assert fitter(fp32=0.8, int8=0.1).first("int8").trial.variant == "int8"


def test_a_correction_takes_its_ratio_without_a_search() -> None:
    tried = fitter(fp32=0.4, int8=0.0)
    fit = tried.again(Correction("fp32", 0.5, 2, int8_tried=True))
    assert (fit.trial.variant, fit.ratio, fit.epochs_factor, fit.int8_tried) == ("fp32", 0.5, 2, True)
    assert len(tried.tried) == 1


def test_a_lost_accuracy_looks_for_a_lighter_cut_in_int8_or_trains_longer() -> None:
    lighter = fitter(fp32=0.5, int8=0.2).again(Correction("fp32", 0.5, lighter=True))
    assert (lighter.trial.variant, lighter.epochs_factor) == ("int8", 1)
    assert 0.2 <= lighter.ratio <= 0.21
    longer = fitter(fp32=0.5, int8=0.6).again(Correction("fp32", 0.5, lighter=True))
    assert (longer.trial.variant, longer.ratio, longer.epochs_factor) == ("fp32", 0.5, 2)
    assert longer.int8_tried
