"""What is tried next when a limit is missed, and which attempt is kept."""

from __future__ import annotations

from dataclasses import replace

from neuroprune.pipeline.attempts import Attempt, best_attempt, next_correction
from neuroprune.pipeline.context import Correction

FINE = Attempt(
    ratio=0.5,
    variant="fp32",
    has_int8=True,
    int8_tried=False,
    max_ratio=0.9,
    epochs_factor=1,
    missed={},
    latency=1.0,
)


def test_nothing_to_do_when_all_limits_hold_or_attempts_are_used_up() -> None:
    assert next_correction([FINE], 3) is None
    late = replace(FINE, missed={"latency": 0.1})
    assert next_correction([late, late, late], 3) is None


def test_too_slow_means_a_larger_ratio_up_to_the_largest() -> None:
    late = replace(FINE, missed={"latency": 0.1})
    assert next_correction([late], 3) == Correction("fp32", 0.6, 1)
    assert next_correction([replace(late, ratio=0.89)], 3) == Correction("fp32", 0.9, 1)
    assert next_correction([replace(late, ratio=0.9)], 3) is None


def test_too_inaccurate_means_int8_first_then_longer_training() -> None:
    worse = replace(FINE, missed={"max_drop": 2.0})
    assert next_correction([worse], 3) == Correction("fp32", 0.5, 1, lighter=True)
    int8 = replace(worse, variant="int8", ratio=0.3, int8_tried=True)
    assert next_correction([worse, int8], 3) == Correction("int8", 0.3, 2, int8_tried=True)
    same = replace(worse, int8_tried=True, epochs_factor=2)
    assert next_correction([worse, same], 3) == Correction("fp32", 0.5, 4, int8_tried=True)
    assert next_correction([replace(worse, has_int8=False)], 3) == Correction("fp32", 0.5, 2)


def test_too_slow_and_too_inaccurate_does_not_cut_more() -> None:
    both = replace(FINE, variant="int8", int8_tried=True, missed={"max_drop": 2.0, "latency": 0.5})
    assert next_correction([both], 3) == Correction("int8", 0.5, 2, int8_tried=True)


def test_the_attempt_that_misses_least_is_kept() -> None:
    first, second = replace(FINE, missed={"latency": 0.5}), replace(FINE, missed={"max_drop": 0.2})
    assert best_attempt([first, second]) == 1
    assert best_attempt([first, first]) == 0
    assert best_attempt([first, FINE]) == 1
