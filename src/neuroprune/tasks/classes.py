"""Some of a task's classes, and how many a task has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Batches, Task, default_loss


def only_classes(task: Task, classes: Sequence[int]) -> Task:
    """The examples of ``classes`` alone, whose labels become 0, 1, ... in the order given.

    Raises UserError for fewer than two classes, one that is named twice or that a split lacks, and for data that
    is not in memory with one label for each example.
    """
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise UserError(
            "classes must be two or more different ones", value=list(classes), mend="give classes: [0, 1]"
        )
    notes = dict(task.preprocessing)
    names = notes.get("classes")
    train, val, test = (_only(task, what, classes) for what in ("train", "val", "test"))
    if names:
        notes["classes"] = [names[label] for label in classes]
    name = f"{task.name}, {len(classes)} classes"
    return replace(task, name=name, train=train, val=val, test=test, preprocessing=notes)


def _only(task: Task, what: str, classes: Sequence[int]) -> TensorBatches:
    batches: Batches = getattr(task, what)
    if not isinstance(batches, TensorBatches) or len(batches.tensors) != 2 or batches.tensors[1].ndim != 1:
        raise UserError(
            "classes can be picked only where the data is in memory, with one label for each example",
            where=f"{what} data of {task.name!r}",
            mend="pick them in the callable",
        )
    inputs, labels = batches.tensors
    wanted = torch.tensor(list(classes))
    match = labels[:, None] == wanted  # [N, classes]
    lacking = [label for label, found in zip(classes, match.any(dim=0).tolist(), strict=True) if not found]
    if lacking:
        raise UserError(
            f"the {what} data of {task.name!r} has no example of class {lacking[0]}",
            value=f"it has {', '.join(map(str, sorted(set(labels.tolist()))))}",
            mend="name classes that are there, or raise limit",
        )
    rows = match.any(dim=1).nonzero().flatten()
    return TensorBatches(
        (inputs[rows], match[rows].int().argmax(dim=1)),
        batches.batch_size,
        shuffle=batches.shuffle,
        seed=batches.seed,
        transform=batches.transform,
        augment=batches.augment,
        origin=None if batches.origin is None else batches.origin[rows.numpy()],
    )


def class_count(task: Task) -> int:
    """How many classes the task tells apart: its names of classes, else the largest label and one.

    Raises UserError where it is no classification with labels.
    """
    if not task.has_labels or task.loss is not default_loss:
        raise UserError(
            f"the task {task.name!r} is no classification with labels, so its classes cannot be counted",
            mend="use data with class indices and the usual loss",
        )
    names = task.preprocessing.get("classes")
    if names:
        return len(names)
    return 1 + max(
        int(batch[1].max()) for split in (task.train, task.val, task.test) for batch in split.epoch(None)
    )
