"""Forward, loss and backward of one batch: the part of training that several processes can share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.recover.computing import Computing
from neuroprune.recover.objective import Objective
from neuroprune.tasks.task import Accuracy, Batch, Task


@dataclass(frozen=True)
class BatchResult:
    """Mean ``loss`` over the examples; ``right`` of ``judged`` predictions (0 of 0 where nobody counts)."""

    loss: float
    right: int
    judged: int


class BatchGradient:
    """Called with a batch it leaves the gradient of ``share`` times its mean loss in ``model``'s parameters."""

    def __init__(self, model: nn.Module, task: Task, objective: Objective, computing: Computing) -> None:
        self.model, self.task, self.objective, self.computing = model, task, objective, computing
        self.counts = isinstance(task.evaluate, Accuracy) and task.has_labels

    def __call__(self, batch: Batch, where: str, share: float = 1.0) -> BatchResult:
        """``where`` it is, for messages. Raises UserError for a batch of one where batch norm needs two."""
        batch = self.computing.moved(batch)
        output = self._forward(batch, where)
        loss = self.objective(batch, output)
        (loss * share if share != 1 else loss).backward()  # type: ignore[no-untyped-call]
        right, judged = Accuracy.hits(batch, output) if self.counts else (0, 0)
        return BatchResult(float(loss.detach()), right, judged)

    def _forward(self, batch: Batch, where: str) -> Any:
        try:
            return self.computing.run(self.task.forward, self.model, batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "batch norm cannot train on a batch of one example",
                where=where,
                mend="make the loader with drop_last=True, or choose another batch size",
            ) from error
