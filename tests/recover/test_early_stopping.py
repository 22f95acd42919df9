"""Early stopping: which epoch counts, when it ends, and that an interruption changes neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import Net, Stop, _bytes, _figures, _loader_task
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task


def scripted(metrics: list[float]) -> Task:
    """Epoch k is judged by the k-th of ``metrics``."""
    given = iter(metrics)
    x, y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    return make_task(train=(x, y), val=(x, y), batch_size=4, evaluate=lambda model: next(given))


def trained(metrics: list[float], **options: Any) -> tuple[nn.Module, list[Any]]:
    """At a constant rate, so that the weights after epoch k do not depend on how many follow."""
    model = Net()
    config = FitConfig(
        **{"epochs": len(metrics), "lr": 0.1, "schedule": "constant", "warmup_epochs": 0, **options}
    )
    return model, fit(model, scripted(metrics), config)


def test_the_best_epochs_weights_count() -> None:
    model, records = trained([50, 70, 60, 69, 99], patience=2)
    assert [(r.epoch, r.val_metric, r.improved) for r in records] == [
        (1, 50.0, True), (2, 70.0, True), (3, 60.0, False), (4, 69.0, False),
    ]  # fmt: skip
    assert _bytes(model) == _bytes(trained([50, 70])[0])


def test_also_where_nothing_was_stopped() -> None:
    model, records = trained([50, 70, 60], patience=9)
    assert len(records) == 3
    assert _bytes(model) == _bytes(trained([0, 0])[0])


def test_without_patience_the_last_epoch_counts() -> None:
    model, records = trained([70, 60, 50])
    assert [r.improved for r in records] == [None] * 3
    assert _bytes(model) == _bytes(trained([0, 0, 0])[0])


def test_an_equal_metric_is_no_better_one_and_min_delta_counts_from_the_best() -> None:
    assert [r.improved for r in trained([5, 5, 5], patience=1)[1]] == [True, False]
    creeping = [10.0, 10.6, 11.2, 11.8]
    assert [r.improved for r in trained(creeping, patience=9, min_delta=1.0)[1]] == [True, False, True, False]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 4), st.integers(0, 3))
def test_against_the_rule_written_as_a_loop(metrics: list[int], patience: int, delta: int) -> None:
    best, waited, expected = float("-inf"), 0, []
    for metric in metrics:
        better = metric > best + delta
        best, waited = (metric, 0) if better else (best, waited + 1)
        expected.append(better)
        if waited == patience:
            break
    records = trained([float(m) for m in metrics], patience=patience, min_delta=float(delta))[1]
    assert [record.improved for record in records] == expected


@pytest.mark.parametrize("batches", [2, 3, 5, 8, 11, 14])
def test_interrupted_anywhere_the_bits_are_the_same(tmp_path: Path, batches: int) -> None:
    """Stops after the fifth epoch and goes back to the third (see the next assertion)."""
    config = FitConfig(epochs=12, lr=0.05, patience=2, seed=17)
    whole = Net()
    expected = fit(whole, _loader_task(), config)
    assert [r.improved for r in expected][-3:] == [True, False, False]
    assert len(expected) == 5
    with pytest.raises(KeyboardInterrupt):
        fit(Net(), _loader_task(), config, checkpoint=tmp_path / "c", progress=Stop(batches))
    resumed = Net()
    assert _figures(fit(resumed, _loader_task(), config, checkpoint=tmp_path / "c")) == _figures(expected)
    assert _bytes(resumed) == _bytes(whole)
    again = Net()  # a finished run that is asked for once more
    fit(again, _loader_task(), config, checkpoint=tmp_path / "c", progress=Stop(0))
    assert _bytes(again) == _bytes(whole)


def test_values_that_make_no_sense() -> None:
    for options, part in (
        ({"patience": 0}, "patience must be 1 or more"),
        ({"patience": 2, "min_delta": -1.0}, "min_delta must be 0 or more"),
        ({"min_delta": 1.0}, "does nothing without early stopping"),
        ({"gamma": 2.0}, "gamma must be in 0..1"),
        ({"milestones": (0.5, 1.0)}, "shares of the run"),
    ):
        with pytest.raises(UserError, match=part):
            FitConfig(epochs=1, **options)
