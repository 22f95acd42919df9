"""fit: it learns, it is the textbook update, and it leaves everything else as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.make import make_task
from neuroprune.tasks.nets import signal_net, tiny_resnet
from neuroprune.tasks.task import Task


def _data(count: int = 24) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, (x @ torch.arange(18.0).view(6, 3).sin()).argmax(1)


def _task(**options: Any) -> Task:
    return make_task(train=_data(), val=_data(9), batch_size=8, **options)


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self.finished: list[str] = []

    def start(self, title: str, total: int) -> None:
        self.started.append((title, total))

    def advance(self, note: str = "") -> None:
        self.notes.append(note)

    def finish(self, summary: str) -> None:
        self.finished.append(summary)

    def close(self) -> None:
        raise AssertionError("the bar is its owner's")


def test_real_digits_are_learnt_in_a_few_epochs() -> None:
    task = load_task("digits", batch_size=32)
    model = tiny_resnet(8)
    records = fit(model, task, FitConfig(epochs=6, lr=0.1))
    assert records[-1].val_metric > 93
    assert records[-1].val_metric == pytest.approx(task.evaluate(model, task.val))
    assert task.evaluate(model, task.test) > 90
    assert [r.epoch for r in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1].train_loss < records[0].train_loss / 3
    assert records[-1].train_metric is not None


def test_sgd_is_nesterovs_update_written_out() -> None:
    """One epoch without shuffling against the formula in plain tensors (torch's convention)."""
    x, y = _data()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]
    task = make_task(train=batches, val=batches)
    model = nn.Linear(6, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    config = FitConfig(epochs=2, lr=0.2, momentum=0.8, weight_decay=0.01, schedule="constant", warmup_epochs=0)
    records = fit(model, task, config)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    losses = []
    for a, b in batches * 2:
        error = ((a @ weight.T + bias).softmax(1) - functional.one_hot(b, 3)) / len(b)
        losses.append(float(functional.cross_entropy(a @ weight.T + bias, b)))
        gradients = [error.T @ a, error.sum(0)]
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        gradients = [g * min(1.0, 5.0 / norm) for g in gradients]
        gradients[0] = gradients[0] + 0.01 * weight  # decay on the matrix only
        for i, target in enumerate((weight, bias)):
            velocity[i] = 0.8 * velocity[i] + gradients[i]
            target -= 0.2 * (gradients[i] + 0.8 * velocity[i])
    torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bias.detach(), bias, rtol=1e-4, atol=1e-5)
    assert records[0].train_loss == pytest.approx(np.mean(losses[:3]), rel=1e-4)
    assert records[1].train_loss == pytest.approx(np.mean(losses[3:]), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(optimizer: Any) -> None:
    def weights(seed: int) -> bytes:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
        torch.manual_seed(random.randrange(1000))  # the caller's generator must not matter
        fit(model, _task(), FitConfig(epochs=2, seed=seed, optimizer=optimizer, lr=0.01))
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    assert weights(0) == weights(0) != weights(1)


def test_modes_generators_and_teacher_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    teacher = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    model.eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    numpys: Any = np.random.get_state()
    states = torch.get_rng_state(), numpys[1].copy(), random.getstate()
    fit(model, _task(), FitConfig(epochs=1), teacher=teacher)
    assert not any(m.training for m in model.modules())
    assert all(m.training for m in teacher.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    numpys = np.random.get_state()
    assert np.array_equal(numpys[1], states[1])
    assert random.getstate() == states[2]


def test_masks_hold_after_every_step() -> None:
    model = nn.Linear(6, 3)
    mask = torch.arange(18).view(3, 6) % 2
    seen = []

    def after_step() -> None:
        with torch.no_grad():
            model.weight.mul_(mask)
        seen.append(1)

    fit(model, _task(), FitConfig(epochs=2, lr=0.1), after_step=after_step)
    assert len(seen) == 6
    assert torch.equal(model.weight == 0, mask == 0)


def test_a_student_follows_its_teacher_without_labels() -> None:
    x = torch.randn(64, 6)
    task = make_task(train=x, val=x, evaluate=lambda model: 0.0, batch_size=16)
    teacher, student = nn.Linear(6, 3), nn.Linear(6, 3)
    distill = Distill(alpha=1.0)
    records = fit(student, task, FitConfig(epochs=30, lr=0.1, weight_decay=0, distill=distill), teacher=teacher)
    assert records[-1].val_loss < 1e-3 < records[0].val_loss
    assert records[-1].train_metric is None
    torch.testing.assert_close(student.weight, teacher.weight, atol=0.05, rtol=0)


def test_regression_and_sequences_train_through_the_same_loop() -> None:
    x = torch.randn(64, 6)
    y = x @ torch.randn(6, 2)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return -float((model(x) - y).square().mean())

    task = make_task(
        train=(x, y), val=(x, y), loss=lambda batch, out: functional.mse_loss(out, batch[1]), evaluate=error
    )
    records = fit(nn.Linear(6, 2), task, FitConfig(epochs=40, lr=0.1, weight_decay=0))
    assert records[-1].val_metric > -0.01
    assert records[-1].val_metric == pytest.approx(-records[-1].val_loss, rel=1e-3)
    phase = torch.arange(80) % 4
    signal = torch.sin(torch.arange(32) * (1.0 + phase[:, None]) / 3).unsqueeze(1)
    waves = make_task(train=(signal, phase), val=(signal, phase), batch_size=16)
    assert fit(signal_net(), waves, FitConfig(epochs=5, lr=0.1))[-1].val_metric == 100


def test_progress_is_started_and_advanced_and_left_to_its_owner() -> None:
    progress = Recorder()
    fit(nn.Linear(6, 3), _task(), FitConfig(epochs=2), progress=progress, title="fine-tuning")
    assert progress.started == [("fine-tuning", 6)]
    assert len(progress.notes) == 6
    assert "epoch 2/2" in progress.notes[-1]
    assert "accuracy" in progress.notes[-1]
    assert progress.finished == []


def test_divergence_names_epoch_batch_and_rate() -> None:
    task = _task(loss=lambda batch, output: functional.cross_entropy(output, batch[1]) * output.abs().exp().mean())
    with pytest.raises(UserError, match="training diverged") as caught:
        fit(nn.Linear(6, 3), task, FitConfig(epochs=4, lr=1e30, clip_norm=None, warmup_epochs=0))
    assert "epoch 1, batch 1, lr" in str(caught.value)
    assert "lower lr" in str(caught.value)


def test_a_validation_loss_that_is_not_finite_is_divergence() -> None:
    def loss(batch: Any, output: Tensor) -> Tensor:
        factor = 1.0 if output.requires_grad else float("nan")
        return functional.cross_entropy(output, batch[1]) * factor

    with pytest.raises(UserError, match="not finite") as caught:
        fit(nn.Linear(6, 3), _task(loss=loss), FitConfig(epochs=1))
    assert "validation after epoch 1" in str(caught.value)


def test_a_loader_that_ends_on_one_example_is_explained() -> None:
    batches = [(torch.randn(1, 6), torch.zeros(1, dtype=torch.long))]
    task = make_task(train=batches, val=batches)
    with pytest.raises(UserError, match="batch of one example") as caught:
        fit(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), task, FitConfig(epochs=1))
    assert "drop_last=True" in str(caught.value)


def test_nothing_to_train() -> None:
    with pytest.raises(UserError, match="no trainable parameters"):
        fit(nn.Flatten(), _task(), FitConfig(epochs=1))
    model = nn.Linear(6, 3)
    before = model.weight.clone()
    assert fit(model, _task(), FitConfig(epochs=0)) == []
    assert torch.equal(model.weight, before)


def test_frozen_parameters_stay() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, _task(), FitConfig(epochs=1, lr=0.5))
    assert torch.equal(model[0].weight, before)


def test_a_frozen_batch_norm_keeps_its_statistics_and_uses_them() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[:2].requires_grad_(False)
    body = copy.deepcopy(model[:2]).eval()
    before = copy.deepcopy(model.state_dict())
    task = _task()
    head = copy.deepcopy(model[2])
    fit(model, task, FitConfig(epochs=2))
    after = model.state_dict()
    assert [n for n in before if not torch.equal(before[n], after[n])] == ["2.weight", "2.bias"]
    # so training is that of the head alone, on what the body gives in evaluation mode
    (x, y), (vx, vy) = _data(), _data(9)
    given = make_task(train=(body(x).detach(), y), val=(body(vx).detach(), vy), batch_size=8)
    fit(head, given, FitConfig(epochs=2))
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(head.parameters(), model[2].parameters(), strict=True)
    )


def test_a_wholly_frozen_model_is_trained_and_frozen_again() -> None:
    """A checkpoint for inference learns as one for training does, bit for bit."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).requires_grad_(False)
    free = copy.deepcopy(frozen).requires_grad_(True)
    for model in (frozen, free):
        fit(model, _task(), FitConfig(epochs=2, lr=0.5))
    assert all(torch.equal(a, b) for a, b in zip(frozen.parameters(), free.parameters(), strict=True))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.grad is None for p in frozen.parameters())
    task = make_task(train=_data(), val=_data(), loss=lambda batch, output: output.sum() * float("nan"))
    with pytest.raises(UserError, match="diverged"):
        fit(frozen, task, FitConfig(epochs=1))
    assert not any(p.requires_grad for p in frozen.parameters())
