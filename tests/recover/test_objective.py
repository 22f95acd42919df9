"""What is minimised, against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.recover.config import Distill, FitConfig
from neuroprune.recover.objective import Objective, mean_squared_error, soft_cross_entropy
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task


def _task(**options: object) -> Task:
    data = (torch.randn(12, 6), torch.arange(12) % 3)
    return make_task(train=data, val=data, **options)  # type: ignore[arg-type]


def _fixed() -> nn.Module:
    return nn.Linear(6, 3).requires_grad_(False)


def test_the_distance_is_hintons() -> None:
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    p = softmax(teacher.double().numpy() / 3, axis=1)
    q = softmax(student.double().numpy() / 3, axis=1)
    expected = 9 * np.mean(entropy(p, q, axis=1))
    assert float(soft_cross_entropy(student, teacher, 3.0)) == pytest.approx(expected, rel=1e-4)
    assert float(soft_cross_entropy(student, student, 3.0)) == pytest.approx(0, abs=1e-6)


def test_the_mixture_is_weighted_by_alpha() -> None:
    task, teacher, student = _task(), _fixed(), _fixed()
    batch = next(iter(task.val.epoch(None)))
    output = student(batch[0]).detach()
    loss = float(task.loss(batch, output))
    distance = float(soft_cross_entropy(output, teacher(batch[0]), 2.0))
    for alpha in (0.0, 0.3, 1.0):
        objective = Objective(task, FitConfig(1, distill=Distill(2.0, alpha)), teacher)
        assert float(objective(batch, output)) == pytest.approx((1 - alpha) * loss + alpha * distance, rel=1e-5)
        assert float(objective.plain(batch, output)) == pytest.approx(loss)


def test_label_smoothing_is_the_textbook_mixture() -> None:
    task, model = _task(), nn.Linear(6, 3)
    batch = next(iter(task.val.epoch(None)))
    output = model(batch[0]).detach()
    log = np.log(softmax(output.double().numpy(), axis=1))
    target = 0.8 * np.eye(3)[batch[1].numpy()] + 0.2 / 3
    smoothed = Objective(task, FitConfig(1, label_smoothing=0.2), None)
    assert float(smoothed(batch, output)) == pytest.approx(-(target * log).sum(1).mean(), rel=1e-5)


def test_other_losses_are_distilled_by_squared_error() -> None:
    task = _task(loss=lambda batch, output: output.square().mean(), evaluate=lambda model: 0.0)
    teacher, student = _fixed(), _fixed()
    batch = next(iter(task.val.epoch(None)))
    output = student(batch[0]).detach()
    expected = 0.5 * float(output.square().mean()) + 0.5 * float((output - teacher(batch[0])).square().mean())
    objective = Objective(task, FitConfig(1, distill=Distill(alpha=0.5)), teacher)
    assert float(objective(batch, output)) == pytest.approx(expected, rel=1e-5)


def test_structured_outputs_are_compared_tensor_by_tensor() -> None:
    one = {"boxes": torch.zeros(2, 4), "scores": (torch.ones(3), torch.arange(3))}
    two = {"boxes": torch.ones(2, 4), "scores": (torch.ones(3) * 4, torch.arange(3) + 1)}
    assert float(mean_squared_error(one, two)) == pytest.approx((1 + 9) / 2)
    with pytest.raises(UserError, match="no tensor to compare"):
        mean_squared_error(None, None)


def test_a_teacher_without_settings_gets_the_defaults_and_no_labels_means_teacher_only() -> None:
    teacher, student = _fixed(), _fixed()
    assert Objective(_task(), FitConfig(1), teacher).distill == Distill()
    x = torch.randn(12, 6)
    task = make_task(train=x, val=x, evaluate=lambda model: 0.0)
    batch = next(iter(task.val.epoch(None)))
    expected = float((student(x) - teacher(x)).square().mean())
    objective = Objective(task, FitConfig(1), teacher)
    assert float(objective(batch, student(x))) == pytest.approx(expected)
    assert float(objective.plain(batch, student(x))) == pytest.approx(expected)


def test_what_lacks_a_teacher() -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        Objective(_task(), FitConfig(1, distill=Distill()), None)
    x = torch.randn(12, 6)
    with pytest.raises(UserError, match="no labels to train on"):
        Objective(make_task(train=x, val=x, evaluate=lambda model: 0.0), FitConfig(1), None)
