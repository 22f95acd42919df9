"""Look at data and model before any work: what would fail after an hour fails now, with the place named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.tasks.batches import TensorBatches, batch_length
from neuroprune.tasks.task import Batch, Batches, Task, default_loss, logits_of, tensors_in

#: batches per split that are looked at where the data is not in memory
_BATCHES_LOOKED_AT = 64


def check_task(task: Task, model: nn.Module) -> None:
    """Raise UserError for data or a model that cannot work; the model is left as it was.

    Finds, in this order: NaN or Inf in weights (the parameter is named), an empty split, NaN or Inf in
    inputs, inputs that the model refuses (its own words, with the shapes), outputs or a loss that are not
    finite, and labels outside [0, outputs) for a classifier (index and value of the first). Data in
    memory is checked whole, other data up to 64 batches of each split.
    """
    _check_weights(model)
    splits = {"train": task.train, "val": task.val, "test": task.test}
    for what, batches in splits.items():
        _check_not_empty(task, what, batches)
        _check_inputs(what, batches)
    classes = _check_forward(task, model)
    if task.loss is default_loss and task.has_labels:
        for what, batches in splits.items():
            _check_labels(what, batches, classes, _class_names(task))
    _check_loss(task, model)


def shapes(value: Any) -> str:
    """Shapes and types of all tensors in ``value``, for messages."""
    return ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors_in(value))


def _check_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        count = _not_finite(tensor)
        if count:
            raise UserError(
                f"the model's weights hold NaN or Inf: {name}",
                where=f"{name}, shape {tuple(tensor.shape)}",
                value=f"{count} of {tensor.numel()} values",
                mend="load weights of a training that did not diverge",
            )


def _check_not_empty(task: Task, what: str, batches: Batches) -> None:
    if len(batches) == 0 or batches.samples == 0:
        raise UserError(
            f"the {what} data of task {task.name!r} is empty",
            mend="check the path, the filters and limit= that made it",
        )


def _check_inputs(what: str, batches: Batches) -> None:
    start = 0
    for batch in _look_at(batches):
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        for tensor in tensors_in(inputs):
            if _not_finite(tensor):
                bad = (~torch.isfinite(tensor)).nonzero()[0].tolist()
                raise UserError(
                    f"the {what} data holds NaN or Inf",
                    where=_place(what, batches, start + (bad[0] if bad else 0), 0),
                    value=float(tensor[tuple(bad)]),
                    mend="remove these examples, or replace the value before training",
                )
        start += batch_length(batch)


def _check_forward(task: Task, model: nn.Module) -> int:
    """Number of classes the model scores (0 where that means nothing)."""
    try:
        with evaluation(model):
            output = model(*task.example_inputs)
    except Exception as error:
        _check_types(task, model, error)
        raise UserError(
            f"the model refuses the example inputs: {_first_lines(error)}",
            where=f"model {type(model).__name__}, task {task.name!r}",
            value=f"inputs {shapes(task.example_inputs)}",
            mend=_shape_hint(task.example_inputs),
        ) from error
    _check_finite(output, model, "for the example inputs")
    try:
        scores = logits_of(output)
    except TypeError:
        return 0
    return scores.shape[1] if scores.ndim > 1 else 0


def _check_types(task: Task, model: nn.Module, error: Exception) -> None:
    """A model of double (or half) on data of float: its own words speak of whatever operator came first."""
    weights = {
        str(p.dtype).removeprefix("torch."): n for n, p in model.named_parameters() if p.is_floating_point()
    }
    inputs = {
        str(t.dtype).removeprefix("torch.") for t in tensors_in(task.example_inputs) if t.is_floating_point()
    }
    if len(weights) != 1 or not inputs or inputs == set(weights):
        return
    (own,), found = weights, ", ".join(sorted(inputs))
    raise UserError(
        f"the model computes in {own} and the data is {found}: {_first_lines(error, 1)}",
        where=f"model {type(model).__name__} ({weights[own]} is {own}), task {task.name!r}",
        value=f"inputs {shapes(task.example_inputs)}",
        mend="make both float32, which every runtime computes: model.float() and data.float(); "
        f"to stay in {own}, give tensors of it (numpy arrays of float64 are read as float32)",
    ) from error


def _check_loss(task: Task, model: nn.Module) -> None:
    batch = next(iter(task.val.epoch(None)))
    try:
        with evaluation(model):
            output = task.forward(model, batch)
            loss = task.loss(batch, output) if task.has_labels else torch.zeros(())
    except Exception as error:
        raise UserError(
            f"the forward or the loss of task {task.name!r} fails: {_first_lines(error)}",
            where="first batch of val",
            value=f"batch {shapes(batch)}",
            mend="give forward= (model, batch -> output) and loss= (batch, output -> scalar) that fit the batch",
        ) from error
    _check_finite(output, model, "for the first batch of val")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UserError(
            f"the loss of task {task.name!r} must be one number",
            value=f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
            mend="return loss.mean()",
        )
    if _not_finite(loss):
        raise UserError(
            "the loss of the first batch of val is not finite",
            where="first batch of val",
            value=float(loss),
            mend="check the loss for logarithms and divisions of zero, and the scale of inputs and targets",
        )


def _check_finite(output: Any, model: nn.Module, when: str) -> None:
    for tensor in tensors_in(output):
        count = _not_finite(tensor)
        if count:
            raise UserError(
                f"the model's output is not finite {when}",
                where=f"model {type(model).__name__}, output shape {tuple(tensor.shape)}",
                value=f"{count} of {tensor.numel()} values are NaN or Inf",
                mend="check the weights and the scale of the inputs (preprocessing)",
            )


def _check_labels(what: str, batches: Batches, classes: int, names: Sequence[str]) -> None:
    start = 0
    for batch in _look_at(batches):
        labels = batch[1] if isinstance(batch, tuple | list) else None
        if not isinstance(labels, Tensor) or labels.dtype.is_floating_point:
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise UserError(
                f"the {what} labels are no class indices",
                value=kind,
                mend="give integer labels, or loss= and evaluate= for a task that is no classification",
            )
        outside = ((labels < 0) | (labels >= classes)).nonzero()
        if classes and len(outside):
            first = outside[0].tolist()
            raise UserError(
                f"a label is out of range: the model scores {classes} classes, so labels are 0..{classes - 1}",
                where=_place(what, batches, start + (first[0] if first else 0), 1),
                value=int(labels[tuple(first)]),
                mend=_label_hint(int(labels[tuple(first)]), names),
            )
        start += batch_length(batch)


def _class_names(task: Task) -> list[str]:
    names = task.preprocessing.get("classes")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _label_hint(label: int, names: Sequence[str]) -> str:
    """``names``: of the classes, where the data has names for them; then it is the model that is too small."""
    if not 0 <= label < len(names):
        return "number the classes from 0, or use a model with enough outputs"
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"the data has {len(names)} classes ({some}): use a model with as many outputs, e.g. "
        f"--arg num_classes={len(names)} if that is what its constructor calls them; or leave classes out"
    )


def _place(what: str, batches: Batches, index: int, tensor: int) -> str:
    """Where the user finds an example: in the files, else by its number in the split that was given."""
    if isinstance(batches, TensorBatches) and batches.origin is not None:
        return f"{batches.origin.place(index, tensor)} (used for {what})"
    return f"{what}, example {index}"


def _look_at(batches: Batches) -> Iterator[Batch]:
    """All of what lies in memory (untransformed), the first batches of anything else."""
    if isinstance(batches, TensorBatches):
        yield batches.tensors
        return
    for _, batch in zip(range(_BATCHES_LOOKED_AT), batches.epoch(None), strict=False):
        yield batch


def _not_finite(tensor: Tensor) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    return int((~torch.isfinite(tensor)).sum())


def _first_lines(error: Exception, lines: int = 3) -> str:
    text = str(error).strip() or type(error).__name__
    return "\n".join(text.splitlines()[:lines])


def _shape_hint(example_inputs: Any) -> str:
    hint = "give inputs of the shape the model was made for (data option resize, or example_inputs=)"
    if any(t.dtype == torch.uint8 for t in tensors_in(example_inputs)):
        hint = "the inputs are uint8: pass x.float() / 255 (or a transform that does); or " + hint
    return hint
