"""Task: its default functions against other libraries, and its digest."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Accuracy, default_loss, logits_of


def _data(count: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def test_default_loss_and_accuracy_agree_with_sklearn() -> None:
    x, y = _data()
    model = nn.Linear(6, 3)
    scores = model(x).detach()
    expected = log_loss(y.numpy(), scores.double().softmax(1).numpy())
    assert float(default_loss((x, y), scores)) == pytest.approx(expected, rel=1e-5)
    batches = TensorBatches((x, y), 8, shuffle=True, seed=0)
    assert Accuracy()(model, batches) == pytest.approx(100 * accuracy_score(y.numpy(), scores.argmax(1).numpy()))


def test_accuracy_counts_every_pixel() -> None:
    x, y = torch.randn(5, 2, 4, 4), torch.randint(0, 2, (5, 4, 4))
    share = np.mean(x.argmax(1).numpy() == y.numpy())
    assert Accuracy()(nn.Identity(), TensorBatches((x, y), 2, shuffle=False, seed=0)) == pytest.approx(100 * share)


@dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: (t, None), lambda t: OrderedDict(aux=0, logits=t), Output]
)
def test_scores_are_found_in_common_outputs(wrap) -> None:  # type: ignore[no-untyped-def]
    scores = torch.randn(2, 3)
    assert logits_of(wrap(scores)) is scores


def test_outputs_without_scores_are_a_type_error() -> None:
    for output in (None, "text", (), {"loss": 3}):
        with pytest.raises(TypeError, match="no tensor of class scores"):
            logits_of(output)


def test_evaluating_puts_each_mode_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    model[1].eval()
    with contextlib.suppress(RuntimeError), evaluation(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_accuracy_does_not_move_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Accuracy()(model, TensorBatches(_data(), 8, shuffle=False, seed=0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_digest_notices_other_data_and_only_that() -> None:
    one = make_task(train=_data(), val=_data(10, 1))
    assert one.digest() == make_task(train=_data(), val=_data(10, 1)).digest()
    assert one.digest() != make_task(train=_data(51), val=_data(10, 1)).digest()
    assert one.digest() != make_task(train=_data(), val=_data(10, 2)).digest()
    x, y = _data()
    y[-1] = (y[-1] + 1) % 3
    assert one.digest() != make_task(train=(x, y), val=_data(10, 1)).digest()
    loader = make_task(train=[_data()], val=[_data(10, 1)])
    assert loader.digest() == make_task(train=[_data()], val=[_data(10, 1)]).digest()
    assert loader.digest() != make_task(train=[_data(seed=4)], val=[_data(10, 1)]).digest()


def test_the_digest_takes_any_type() -> None:
    x = torch.zeros(6, 2, dtype=torch.bfloat16)
    batches = [{"x": x, "mask": torch.ones(6, dtype=torch.bool)}]
    task = make_task(train=batches, val=batches, example_inputs=x, evaluate=lambda model: 0.0)
    assert len(task.digest()) == 64


def test_make_task_fills_in_the_rest() -> None:
    task = make_task(train=_data(), val=_data(10), batch_size=16)
    assert task.example_inputs[0].shape == (2, 6)
    assert (task.metric, task.metric_unit, task.has_labels) == ("accuracy", "%", True)
    assert task.preprocessing == {"test_is_val": True}
    assert len(task.train) == 4
    assert "test_is_val" not in make_task(train=_data(), val=_data(), test=_data()).preprocessing


def test_the_users_own_metric_sees_the_model_in_evaluation_mode() -> None:
    seen = []

    def evaluate(model: nn.Module) -> float:
        seen.append(model.training)
        return np.float64(0.25)

    task = make_task(train=_data(), val=_data(), evaluate=evaluate, metric="R2")
    model = nn.Linear(6, 3)
    value = task.evaluate(model, task.val)
    assert (value, type(value), seen, model.training) == (0.25, float, [False], True)
    assert (task.metric, task.metric_unit) == ("R2", "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("high", "returned str"),
        (None, "returned NoneType"),
        (float("nan"), "not finite"),
        (torch.zeros(2), "Tensor"),
    ],
)
def test_a_metric_that_is_no_number(value: object, message: str) -> None:
    task = make_task(train=_data(), val=_data(), evaluate=lambda model: value)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match=message):
        task.evaluate(nn.Linear(6, 3), task.val)


def test_two_inputs_are_read_off_the_batch() -> None:
    batches = [((torch.zeros(4, 3), torch.zeros(4, 5)), torch.zeros(4, dtype=torch.long))]
    task = make_task(train=batches, val=batches)
    assert [tuple(t.shape) for t in task.example_inputs] == [(2, 3), (2, 5)]


def test_what_cannot_be_guessed_is_asked_for() -> None:
    with pytest.raises(UserError, match="no labels") as caught:
        make_task(train=torch.zeros(4, 3), val=torch.zeros(4, 3))
    assert "evaluate=" in str(caught.value)
    batches = [{"x": torch.zeros(4, 3)}]
    with pytest.raises(UserError, match="cannot be read off a batch of type dict") as caught:
        make_task(train=batches, val=batches)
    assert "example_inputs=" in str(caught.value)
    with pytest.raises(UserError, match="the val data is empty"):
        make_task(train=_data(), val=[])
