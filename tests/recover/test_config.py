"""FitConfig: schedules against torch's own, and values that make no sense."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from neuroprune.base.errors import UserError
from neuroprune.recover.config import Distill, FitConfig


def _of_torch(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_agrees_with_torch() -> None:
    config = FitConfig(epochs=4, lr=0.4, warmup_epochs=0)
    theirs = _of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40), 40)
    assert [config.learning_rate(step, 10) for step in range(40)] == pytest.approx(theirs)


def test_onecycle_agrees_with_torch() -> None:
    config = FitConfig(epochs=4, lr=0.4, schedule="onecycle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch asks for momentum cycling, which is not under test
        theirs = _of_torch(
            lambda o: lr_scheduler.OneCycleLR(o, 0.4, total_steps=401, cycle_momentum=False, final_div_factor=1e9),
            400,
        )
    # torch places the peak one step before 30 %, so the two differ by up to a step
    assert [config.learning_rate(step, 100) for step in range(400)] == pytest.approx(theirs, abs=0.01)


def test_steps_and_constant() -> None:
    step = FitConfig(epochs=8, lr=1.0, schedule="step", warmup_epochs=0)
    assert [step.learning_rate(10 * e, 10) for e in range(8)] == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)
    constant = FitConfig(epochs=8, lr=1.0, schedule="constant", warmup_epochs=0)
    assert {constant.learning_rate(s, 10) for s in range(80)} == {1.0}


@given(
    st.integers(1, 20),
    st.integers(1, 30),
    st.floats(0, 30),
    st.sampled_from(["cosine", "step", "constant", "onecycle"]),
)
def test_every_rate_lies_under_the_peak(epochs: int, steps: int, warmup: float, schedule: Any) -> None:
    config = FitConfig(epochs=epochs, lr=0.3, warmup_epochs=warmup, schedule=schedule)
    rates = [config.learning_rate(step, steps) for step in range(epochs * steps)]
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)
    assert config.learning_rate(epochs * steps + 5, steps) >= 0
    if warmup and schedule == "cosine":
        rising = rates[: math.floor(min(warmup * steps, epochs * steps / 2)) + 1]
        assert rising == sorted(rising)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"optimizer": "adam"}, ["unknown optimizer 'adam'", "did you mean 'adamw'?"]),
        ({"schedule": "cosin"}, ["unknown schedule 'cosin'", "did you mean 'cosine'?"]),
        ({"epochs": -1}, ["epochs must be 0 or more", "-1"]),
        ({"lr": 0}, ["lr must be positive"]),
        ({"lr": float("nan")}, ["lr must be positive"]),
        ({"momentum": 1.5}, ["momentum must be in 0..1"]),
        ({"weight_decay": -1.0}, ["weight_decay must be 0 or more"]),
        ({"label_smoothing": 2.0}, ["label_smoothing must be in 0..1"]),
        ({"clip_norm": 0.0}, ["clip_norm must be positive"]),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        FitConfig(**{"epochs": 1, **changes})
    for part in parts:
        assert part in str(caught.value)


def test_distillation_values() -> None:
    with pytest.raises(UserError, match="temperature"):
        Distill(temperature=0)
    with pytest.raises(UserError, match="alpha"):
        Distill(alpha=1.1)


def test_the_step_schedule_of_s4() -> None:
    """lr 0.1, gamma 0.1 at half and three quarters of 56 epochs, also after a warm-up."""
    for warmup in (0.0, 0.5):
        config = FitConfig(epochs=56, lr=0.1, schedule="step", warmup_epochs=warmup)
        rates = [config.learning_rate(20 * epoch, 20) for epoch in range(1, 56)]
        assert rates == pytest.approx([0.1] * 27 + [0.01] * 14 + [0.001] * 14)
    theirs = _of_torch(lambda o: lr_scheduler.MultiStepLR(o, [12, 20, 32], gamma=0.3), 40)
    config = FitConfig(epochs=4, lr=0.4, schedule="step", warmup_epochs=0, gamma=0.3, milestones=(0.3, 0.5, 0.8))
    assert [config.learning_rate(step, 10) for step in range(40)] == pytest.approx(theirs)
