"""A Task from whatever data and functions the user has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import as_batches
from neuroprune.tasks.check import check_task
from neuroprune.tasks.task import (
    Accuracy,
    Batch,
    Batches,
    Task,
    default_forward,
    default_loss,
    tensors_in,
)

__all__ = ["check_task", "make_task"]


def make_task(
    *,
    train: Any,
    val: Any,
    test: Any = None,
    example_inputs: Any = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    loss: Callable[[Batch, Any], Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    metric: str | None = None,
    metric_unit: str | None = None,
    name: str = "custom",
    batch_size: int = 64,
    seed: int = 0,
    preprocessing: Mapping[str, Any] | None = None,
) -> Task:
    """A task from data and, where the task is no classification, functions.

    >>> task = make_task(train=(train_x, train_y), val=(val_x, val_y))                    # doctest: +SKIP
    >>> task = make_task(train=loader, val=val_loader, loss=lambda batch, y: mse(y, batch[1]),
    ...                  evaluate=lambda model: -error_of(model), metric="-MSE")          # doctest: +SKIP

    Data: see ``as_batches``; only tensors, arrays and data sets are cut by ``batch_size`` and shuffled.
    ``evaluate(model)`` returns the figure to keep high; it brings its own data, so it is the same for
    every split. Without ``test`` the validation data is reported as the test, and
    ``preprocessing["test_is_val"]`` says so. Raises UserError for data that cannot be used.
    """
    splits = [
        as_batches(data, batch_size=batch_size, shuffle=what == "train", seed=seed, what=what)
        for what, data in (("train", train), ("val", val), ("test", val if test is None else test))
    ]
    labelled = _has_labels(_first(splits[0], "train"))
    if not labelled and evaluate is None:
        raise UserError(
            f"the data of task {name!r} has no labels, so accuracy cannot be measured",
            mend="give (x, y) batches, or evaluate=, a function model -> float (higher is better)",
        )
    notes = dict(preprocessing or {})
    if test is None:
        notes["test_is_val"] = True
    run = forward or default_forward
    return Task(
        name=name,
        train=splits[0],
        val=splits[1],
        test=splits[2],
        example_inputs=_example_inputs(example_inputs, splits[0]),
        forward=run,
        loss=loss or default_loss,
        evaluate=Accuracy(run) if evaluate is None else SplitBlind(evaluate),
        metric=metric or ("accuracy" if evaluate is None else "metric"),
        metric_unit=metric_unit if metric_unit is not None else ("%" if evaluate is None else ""),
        preprocessing=notes,
        has_labels=labelled,
    )


class SplitBlind:
    """The user's ``model -> float`` as ``evaluate(model, batches)``: it chooses its data itself."""

    def __init__(self, function: Callable[[nn.Module], float]) -> None:
        self.function = function

    def __call__(self, model: nn.Module, batches: Batches) -> float:
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            return _as_metric(self.function(model))
        finally:
            for module, training in modes:
                module.training = training


def _as_metric(value: Any) -> float:
    """Raises UserError for what is no number, or is NaN or infinite: it could neither be compared nor stored."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"evaluate returned {type(value).__name__}, not a number",
            mend="return one float from evaluate(model), higher is better",
        ) from error
    if not math.isfinite(number):
        raise UserError(
            "evaluate returned a value that is not finite",
            value=number,
            mend="check the model's outputs, and divisions by zero in evaluate(model)",
        )
    return number


def _first(batches: Batches, what: str) -> Batch:
    for batch in batches.epoch(None):
        return batch
    raise UserError(f"the {what} data is empty", mend="check the path and the filters that made it")


def _has_labels(batch: Batch) -> bool:
    """Labels: a second thing in the batch, or a mapping, whose loss function knows where to look."""
    return isinstance(batch, Mapping) or (isinstance(batch, tuple | list) and len(batch) > 1)


def _example_inputs(given: Any, train: Batches) -> tuple[Any, ...]:
    """What the user gave, as a tuple; else the first two inputs of the training data."""
    if given is not None:
        return tuple(given) if isinstance(given, tuple | list) else (given,)
    batch = _first(train, "train")
    head = batch[0] if isinstance(batch, tuple | list) else batch
    if isinstance(head, Tensor):
        return (head[:2],)
    if isinstance(head, tuple | list) and all(isinstance(item, Tensor) for item in head):
        return tuple(item[:2] for item in head)
    found = len(list(tensors_in(batch)))
    raise UserError(
        f"the model's inputs cannot be read off a batch of type {type(batch).__name__} with {found} tensors",
        mend="pass example_inputs=(...), the positional arguments of the model for one or two examples",
    )
