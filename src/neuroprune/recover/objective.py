"""What training minimises: the task's loss, a teacher's outputs, or a mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.recover.config import Distill, FitConfig
from neuroprune.recover.features import Features
from neuroprune.tasks.task import Batch, Task, default_loss, logits_of, tensors_in


class Objective:
    """``objective(batch, output)`` is the scalar to minimise in training, ``plain`` the one to report.

    Raises UserError when distillation lacks its teacher, or when the data has no labels and the teacher
    is not all there is to learn from. ``features``: what the last run of the student left there is compared too.
    """

    def __init__(
        self, task: Task, config: FitConfig, teacher: nn.Module | None, features: Features | None = None
    ) -> None:
        if config.distill is not None and teacher is None:
            raise UserError("distillation needs a teacher", mend="pass teacher=, or distill=None")
        distill = config.distill or (Distill() if teacher is not None else None)
        if not task.has_labels and distill is None:
            raise UserError(
                f"the data of task {task.name!r} has no labels to train on",
                mend="pass a teacher (label-free distillation), or batches of (x, y)",
            )
        self.task, self.teacher, self.distill, self.features = task, teacher, distill, features
        self.smoothing = config.label_smoothing

    def __call__(self, batch: Batch, output: Any) -> Tensor:
        if self.distill is None:
            return self._loss(batch, output)
        loss = self._distance(batch, output, self.distill.temperature)
        alpha = self.distill.alpha
        if alpha < 1 and self.task.has_labels:
            loss = (1 - alpha) * self._loss(batch, output) + alpha * loss
        return loss if self.features is None else loss + self.distill.features * self.features.error()

    def plain(self, batch: Batch, output: Any) -> Tensor:
        """The task's own loss where there are labels, else the distance to the teacher."""
        if self.task.has_labels:
            return self.task.loss(batch, output)
        return self._distance(batch, output, 1.0)

    def _loss(self, batch: Batch, output: Any) -> Tensor:
        if self.smoothing and self.task.loss is default_loss:
            return functional.cross_entropy(logits_of(output), batch[1], label_smoothing=self.smoothing)
        return self.task.loss(batch, output)

    def _distance(self, batch: Batch, output: Any, temperature: float) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            wanted = self.task.forward(self.teacher, batch)
        if self.task.loss is default_loss and self.task.has_labels:
            return soft_cross_entropy(logits_of(output), logits_of(wanted), temperature)
        return mean_squared_error(output, wanted)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T ** 2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over examples; scores [N, C, ...]."""
    ours = functional.log_softmax(student / temperature, dim=1)
    theirs = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def mean_squared_error(student: Any, teacher: Any) -> Tensor:
    """Over all floating tensors of two outputs of the same structure."""
    pairs = zip(tensors_in(student), tensors_in(teacher), strict=True)
    errors = [functional.mse_loss(ours, theirs) for ours, theirs in pairs if ours.is_floating_point()]
    if not errors:
        raise UserError(
            "the model's output holds no tensor to compare with the teacher's",
            value=type(student).__name__,
            mend="return tensors of floating point from forward, or train without distillation",
        )
    return torch.stack(errors).mean()
