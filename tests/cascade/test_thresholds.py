"""Thresholds and temperatures against brute force, on answers written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuroprune.base.errors import UserError
from neuroprune.cascade.confidence import calibration_error, fit_temperature
from neuroprune.cascade.runner import NEVER, confidence
from neuroprune.cascade.thresholds import (
    MOST,
    Evidence,
    answering,
    candidates,
    cheapest,
    every_point,
    frontier,
    operating_points,
    paths,
    point,
    points,
    thinned,
)


def evidence_of(seed: int, levels: int = 3, n: int = 12) -> Evidence:
    rng = np.random.default_rng(seed)
    sure = rng.choice(np.linspace(0.1, 1, 19), (levels, n)).astype(np.float32)  # with ties
    sure[rng.random(sure.shape) < 0.1] = np.nan
    ms = np.cumsum(rng.uniform(0.5, 2, levels))
    return Evidence(rng.random((levels, n)) < 0.7, sure, ms, 10 * ms, gate_ms=0.25)


def walked(evidence: Evidence, path: tuple[int, ...], threshold: float) -> list[tuple[int, float]]:
    """(level that answers, milliseconds) of each example, one by one."""
    found = []
    for example in range(evidence.examples):
        spent = 0.0
        for place, level in enumerate(path):
            spent += evidence.ms[level]
            last = place == len(path) - 1
            if not last:
                spent += evidence.gate_ms
            if last or evidence.confidence[level, example] >= threshold:
                found.append((level, spent))
                break
    return found


@given(st.integers(0, 10_000), st.floats(0, 2, width=32))
def test_a_point_is_what_walking_each_example_gives(seed: int, threshold: float) -> None:
    evidence = evidence_of(seed)
    for path in paths(3):
        steps = walked(evidence, path, threshold)
        found = point(evidence, path, threshold)
        levels, spent = [level for level, _ in steps], sorted(ms for _, ms in steps)
        assert answering(evidence.confidence, path, threshold).tolist() == levels
        right = [evidence.right[level, n] for n, level in enumerate(levels)]
        assert found.accuracy == pytest.approx(100 * sum(right) / len(right))
        assert found.mean_ms == pytest.approx(sum(spent) / len(spent))
        assert found.p90_ms == pytest.approx(spent[math.ceil(0.9 * len(spent)) - 1])
        assert found.worst_ms == pytest.approx(walked_worst(evidence, path))
        assert found.shares == pytest.approx([levels.count(n) / len(levels) for n in range(3)])


def walked_worst(evidence: Evidence, path: tuple[int, ...]) -> float:
    return float(sum(evidence.ms[list(path)]) + evidence.gate_ms * (len(path) - 1))


def test_every_choice_of_levels_is_a_path() -> None:
    assert list(paths(3)) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@given(st.integers(0, 10_000))
def test_the_cheapest_point_is_that_of_all_thresholds_there_are(seed: int) -> None:
    """Every threshold that makes a difference lies at or between the confidences: all of them are walked here."""
    evidence = evidence_of(seed)
    seen = evidence.confidence[np.isfinite(evidence.confidence)]
    grid = np.unique(np.concatenate([seen, seen + 1e-4, seen - 1e-4, [0.0, NEVER]]))
    wanted = 100 * evidence.right[2].mean()
    every = [(p, float(t)) for p in paths(3) for t in grid]
    costs = []
    for path, threshold in every:
        steps = walked(evidence, path, threshold)
        right = np.mean([evidence.right[level, n] for n, (level, _) in enumerate(steps)])
        if 100 * right >= wanted - 1e-9:
            costs.append(np.mean([ms for _, ms in steps]))
    found = cheapest(every_point(evidence), wanted)
    assert found is not None
    assert found.mean_ms == pytest.approx(min(costs))
    assert found.accuracy >= wanted - 1e-9


def test_candidates_lie_between_confidences_and_beyond_both_ends() -> None:
    found = candidates(np.array([0.5, 0.9, 0.5, np.nan, 0.9 + 1e-8]))
    assert found == pytest.approx([0.0, 0.7, NEVER])
    assert candidates(np.full(3, np.nan)).tolist() == [0.0, NEVER]
    assert len(candidates(np.linspace(0.1, 0.9, 5000))) == MOST + 2


def test_nan_is_never_sure_and_the_last_level_answers_all_the_same() -> None:
    sure = np.full((2, 2), np.nan, dtype=np.float32)
    assert answering(sure, (0, 1), 0.0).tolist() == [1, 1]
    assert answering(sure, (0,), 0.5).tolist() == [0, 0]


def test_thresholds_that_are_always_and_never_met() -> None:
    evidence = evidence_of(0)
    evidence.confidence[:] = 0.5
    assert point(evidence, (0, 2), 0.0).shares == (1, 0, 0)
    assert point(evidence, (0, 2), NEVER).shares == (0, 0, 1)
    assert [p.threshold for p in points(evidence, (0, 2))] == [0.0, NEVER]


def test_named_points_keep_what_they_promise() -> None:
    evidence = evidence_of(3, n=200)
    dense = 100 * float(evidence.right[2].mean())
    named = operating_points(evidence, dense, (0.0, 5.0))
    assert named["lose-0"].accuracy >= dense
    assert named["lose-5"].accuracy >= dense - 5
    assert named["lose-5"].mean_ms <= named["lose-0"].mean_ms
    assert named["path-0-1"].accuracy >= named["level-1"].accuracy
    assert list(named)[:2] == ["lose-0", "lose-5"]
    assert "lose-0" not in operating_points(evidence, 100.1, (0.0,))


@given(st.integers(0, 10_000))
def test_where_none_is_lost_every_example_that_the_last_level_gets_right_is_right(seed: int) -> None:
    evidence = evidence_of(seed)
    keeps = []
    for path in paths(3):
        for threshold in [0.0, *np.linspace(0.02, 1.02, 51), NEVER] if len(path) > 1 else [0.0]:
            steps = walked(evidence, path, float(threshold))
            right = [evidence.right[level, example] for example, (level, _) in enumerate(steps)]
            if all(ours or not last for ours, last in zip(right, evidence.right[2], strict=True)):
                keeps.append(np.mean([spent for _, spent in steps]))
    found = operating_points(evidence, 0.0, ())["lose-none"]
    assert found.mean_ms == pytest.approx(min(keeps))


def test_the_frontier_has_no_point_that_another_beats() -> None:
    every = every_point(evidence_of(1))
    best = frontier(every)
    for one in best:
        assert not any(p.mean_ms <= one.mean_ms and p.accuracy > one.accuracy for p in every)
    assert [p.mean_ms for p in best] == sorted(p.mean_ms for p in best)
    assert thinned(best, 2) == [best[0], best[-1]]
    assert thinned(best, 99) == best


def test_confidence_by_hand() -> None:
    scores = np.log(np.array([[1.0, 2, 5], [1, 1, 2]]))
    assert confidence(scores, 1.0) == pytest.approx([5 / 8, 2 / 4])
    assert confidence(scores, 0.5) == pytest.approx([25 / 30, 4 / 6])  # squares
    assert confidence(1e4 * np.ones((1, 4)), 0.05) == pytest.approx([0.25])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_give_no_confidence(value: float) -> None:
    assert np.isnan(confidence(np.array([[0.0, value]]), 1.0)).all()


@given(arrays(np.float64, (6, 3), elements=st.floats(-5, 5)), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_the_temperature_is_that_of_a_fine_grid(scores: np.ndarray, labels: list[int]) -> None:
    def missed(temperature: float) -> float:
        z = scores / temperature
        z = z - z.max(axis=1, keepdims=True)
        return float(
            np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(z, labels, strict=True)])
        )

    found = fit_temperature(scores, np.array(labels))
    assert missed(found) <= min(map(missed, np.geomspace(0.05, 20, 400))) + 1e-4


def test_a_known_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (odds.cumsum(axis=1) < rng.random((len(odds), 1))).sum(axis=1)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    sure = confidence(logits, 1.0)
    assert calibration_error(sure, logits.argmax(axis=1) == labels) < 0.02
    assert calibration_error(confidence(3 * logits, 1.0), logits.argmax(axis=1) == labels) > 0.1


def test_scores_that_are_not_finite_do_not_count_for_the_temperature() -> None:
    scores, labels = np.array([[0.0, 2], [3, 0], [1, 2], [0, 1]]), np.array([1, 0, 0, 1])
    with_nan = np.concatenate([scores, [[np.nan, 0]]])
    assert fit_temperature(with_nan, np.append(labels, 0)) == pytest.approx(fit_temperature(scores, labels))
    with pytest.raises(UserError, match="no finite scores"):
        fit_temperature(np.full((2, 3), np.nan), np.array([0, 1]))


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.9 of which half are right, and 0.3 of which none is."""
    sure, right = np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, False, False, False])
    assert calibration_error(sure, right) == pytest.approx((0.8 + 0.6) / 4)
