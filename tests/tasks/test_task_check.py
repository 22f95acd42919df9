"""check_task: each mistake is found before any work, and named with its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.make import check_task, make_task
from neuroprune.tasks.task import Task


def _data(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 6), torch.arange(count) % 3


def _model() -> Any:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def _refused(task: Task, model: nn.Module, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        check_task(task, model)
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


def test_good_work_passes_and_the_model_is_untouched() -> None:
    model = _model()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    check_task(make_task(train=_data(), val=_data()), model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == [True, True, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_name_the_parameter(value: float) -> None:
    model = _model()
    with torch.no_grad():
        model[2].weight[1, 2] = value
    _refused(make_task(train=_data(), val=_data()), model, "2.weight", "1 of 12 values", "mend:")


def test_nan_statistics_name_the_buffer() -> None:
    model = _model()
    model[1].running_var[0] = float("nan")
    _refused(make_task(train=_data(), val=_data()), model, "1.running_var")


@pytest.mark.parametrize(
    "wrap", [lambda data: data, lambda data: [(data[0][:7], data[1][:7]), (data[0][7:], data[1][7:])]]
)
@pytest.mark.parametrize(("label", "shown"), [(3, "value: 3"), (-1, "value: -1")])
def test_labels_out_of_range_name_the_first(wrap: Callable[..., object], label: int, shown: str) -> None:
    x, y = _data()
    y[8], y[10] = label, 77
    task = make_task(train=wrap((x, y)), val=_data())
    _refused(task, _model(), "label is out of range", "3 classes", "0..2", "train, example 8", shown)


def test_labels_that_are_no_indices() -> None:
    x, _ = _data()
    task = make_task(train=(x, torch.rand(12)), val=_data())
    _refused(task, _model(), "train labels are no class indices", "float32", "loss=")


def test_labels_that_cannot_be_found() -> None:
    batches = [{"x": torch.zeros(2, 6), "y": torch.zeros(2)}]
    task = make_task(
        train=batches,
        val=batches,
        example_inputs=torch.zeros(2, 6),
        forward=lambda model, batch: model(batch["x"]),
    )
    _refused(task, _model(), "train labels are no class indices", "NoneType")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    x, y = _data()
    x[5, 2] = value
    _refused(
        make_task(train=_data(), val=(x, y)), _model(), "val data holds NaN or Inf", "val, example 5", str(value)
    )


def test_a_wrong_shape_quotes_the_model_and_the_shapes() -> None:
    task = make_task(train=(torch.randn(4, 5), torch.zeros(4).long()), val=_data())
    text = _refused(task, _model(), "refuses the example inputs", "(2, 5) float32", "mend:")
    assert "mat1 and mat2 shapes cannot be multiplied" in text


def test_a_model_of_double_takes_tensors_of_double() -> None:
    x, y = _data()
    check_task(make_task(train=(x.double(), y), val=(x.double(), y)), _model().double())


@pytest.mark.parametrize(("model", "data"), [("float64", "float32"), ("float32", "float64")])
def test_types_that_differ_are_said_to_differ(model: str, data: str) -> None:
    x, y = _data()
    task = make_task(train=(x.to(getattr(torch, data)), y), val=_data())
    net = _model().to(getattr(torch, model))
    text = _refused(task, net, f"the model computes in {model} and the data is {data}", "model.float()")
    assert "data.float()" in text
    assert "resize" not in text


def test_uint8_inputs_get_a_hint() -> None:
    task = make_task(train=(torch.zeros(4, 6, dtype=torch.uint8), torch.zeros(4).long()), val=_data())
    _refused(task, _model(), "uint8", "x.float() / 255")


def test_an_output_that_is_not_finite() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x - x)

    _refused(make_task(train=_data(), val=_data()), Log(), "output is not finite", "12 of 12 values")


def test_an_empty_split() -> None:
    good = make_task(train=_data(), val=_data())
    empty = TensorBatches((torch.zeros(0, 6), torch.zeros(0)), 4, shuffle=False, seed=0)
    task = Task("t", good.train, good.val, empty, good.example_inputs)
    _refused(task, _model(), "the test data of task 't' is empty")


def test_a_loss_that_fails_or_is_no_number() -> None:
    def broken(batch: object, output: Tensor) -> Tensor:
        raise KeyError("boxes")

    _refused(
        make_task(train=_data(), val=_data(), loss=broken), _model(), "forward or the loss", "boxes", "(12, 6)"
    )
    vector = make_task(train=_data(), val=_data(), loss=lambda batch, output: output.sum(1))
    _refused(vector, _model(), "must be one number", "shape (12,)")
    nan = make_task(train=_data(), val=_data(), loss=lambda batch, output: output.sum() * float("nan"))
    _refused(nan, _model(), "loss of the first batch of val is not finite")


def test_regression_and_unlabelled_tasks_pass() -> None:
    regression = make_task(
        train=(torch.randn(8, 6), torch.randn(8, 3)),
        val=(torch.randn(8, 6), torch.randn(8, 3)),
        loss=lambda batch, output: (output - batch[1]).square().mean(),
        evaluate=lambda model: 0.0,
    )
    check_task(regression, _model())
    check_task(make_task(train=torch.randn(8, 6), val=torch.randn(8, 6), evaluate=lambda model: 0.0), _model())
