"""What exported levels say of a split of a task's data, and whether the task can be a cascade's at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.cascade.confidence import calibration_error, fit_temperature
from neuroprune.cascade.runner import confidence
from neuroprune.export import Session
from neuroprune.export.compare import capture_inputs, run_on_tensors
from neuroprune.tasks.task import Accuracy, Batches, Task


@dataclass(frozen=True)
class Split:
    """``inputs``: one array [n, ...] per input of the network; ``labels`` [n], None where there are none."""

    inputs: list[np.ndarray]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def example(self, number: int) -> list[np.ndarray]:
        return [array[number : number + 1] for array in self.inputs]


def check_suits(model: nn.Module, task: Task) -> None:
    """Raises UserError for a network or a task in which no level could be sure of a class."""
    with evaluation(model):
        output = task.forward(model, next(iter(task.val.epoch(None))))
    fits = isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] >= 2
    if not fits or not output.is_floating_point():
        shown = f"{type(output).__name__} {tuple(output.shape) if isinstance(output, Tensor) else ''}"
        raise UserError(
            "a cascade needs one output of class scores [examples, classes]: a small network's answer is taken "
            "where it is sure of a class",
            where=f"output of {type(model).__name__}", value=shown.strip(),
            mend="wrap the network so that it returns its scores alone; for regression and several outputs use "
            "`prune_to_budget`",
        )  # fmt: skip
    if task.has_labels and not isinstance(task.evaluate, Accuracy):
        raise UserError(
            "thresholds are chosen by top-1 accuracy, and this task is judged otherwise",
            value=task.metric,
            mend="leave evaluate out, or go without labels (--labels none): thresholds are then chosen by "
            "agreement with the dense network",
        )


def split_of(model: nn.Module, task: Task, batches: Batches) -> Split:
    """What ``task.forward`` feeds the network from ``batches``. Raises UserError where that is not one row of each
    input per label."""
    caught = capture_inputs(model, task, batches.epoch(None), max(batches.samples, 1))
    inputs = [np.concatenate(arrays) if arrays[0].ndim else arrays[0] for arrays in zip(*caught, strict=True)]
    labels = _labels(batches) if task.has_labels else None
    lengths = {array.shape[0] if array.ndim else 0 for array in inputs} | (
        {len(labels)} if labels is not None else set()
    )
    if len(lengths) > 1:
        raise UserError(
            "a cascade needs one row of every input, and one label, for each example",
            where=f"data of task {task.name!r}",
            value=", ".join(f"{array.dtype}{list(array.shape)}" for array in inputs),
            mend="give the network its examples in the first dimension of every input",
        )
    return Split(inputs, labels)


def _labels(batches: Batches) -> np.ndarray:
    found = [torch.as_tensor(batch[1]) for batch in batches.epoch(None)]
    if any(label.dim() != 1 for label in found):
        raise UserError(
            "a cascade needs one class for each example", where="labels",
            value=f"shape {tuple(found[0].shape)}", mend="give class numbers [n]",
        )  # fmt: skip
    return np.asarray(torch.cat(found).long().cpu())


def scores_of(session: Session, split: Split, batch: int = 256) -> np.ndarray:
    """[n, classes] float32."""
    parts: list[np.ndarray] = [
        run_on_tensors(session, [torch.from_numpy(array[start : start + batch]) for array in split.inputs])[0]
        for start in range(0, len(split), batch)
    ]
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class Judged:
    """Levels on one split: ``scores`` [levels, n, classes], ``wanted`` [n] the class that counts as right,
    ``dense`` [n] the dense network's class."""

    scores: np.ndarray
    wanted: np.ndarray
    dense: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool [levels, n]; scores that are not finite are never right."""
        finite = np.isfinite(self.scores).all(axis=2)
        found: np.ndarray = (self.scores.argmax(axis=2) == self.wanted) & finite
        return found

    @property
    def dense_accuracy(self) -> float:
        return 100.0 * float((self.dense == self.wanted).mean())

    def temperatures(self) -> list[float]:
        return [fit_temperature(scores, self.wanted) for scores in self.scores]

    def confidence(self, temperatures: Sequence[float]) -> np.ndarray:
        """[levels, n]."""
        return np.stack([confidence(s, t) for s, t in zip(self.scores, temperatures, strict=True)])

    def calibration(self, temperatures: Sequence[float]) -> list[float]:
        """Expected calibration error of every level, 0 to 1."""
        pairs = zip(self.confidence(temperatures), self.right, strict=True)
        return [calibration_error(sure, right) for sure, right in pairs]


def judged(sessions: Sequence[Session], dense: Session, split: Split) -> Judged:
    """Without labels the dense network's class counts as right."""
    whole = scores_of(dense, split).argmax(axis=1)
    scores = np.stack([scores_of(session, split) for session in sessions])
    return Judged(scores, whole if split.labels is None else split.labels, whole)


def first_examples(batches: Sequence[Any] | Batches, examples: int) -> list[Any]:
    """Whole batches until there are so many examples; of `Batches` those of the first training epoch."""
    from neuroprune.tasks.batches import batch_length

    found: list[Any] = []
    held = 0
    for batch in batches.epoch(0) if hasattr(batches, "epoch") else batches:
        if held >= examples:
            break
        found.append(batch)
        held += batch_length(batch)
    return found
