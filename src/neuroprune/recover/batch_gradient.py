"""Forward, loss and backward of one batch: the part of training that several processes can share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.base.modes import gradients
from neuroprune.pruning.plan import Plan
from neuroprune.recover.computing import Computing
from neuroprune.recover.config import FitConfig
from neuroprune.recover.features import Features, matched
from neuroprune.recover.objective import Objective
from neuroprune.tasks.batches import RandomState
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


@contextmanager
def batch_gradient(
    model: nn.Module, task: Task, config: FitConfig, teacher: nn.Module | None, plan: Plan | None
) -> Iterator[BatchGradient]:
    """Model and teacher ready to be trained and asked, where ``config`` says; afterwards as they were, but for
    what was learnt. Raises UserError for a teacher, labels, features or a device that are lacking."""
    features = _features(model, task, config, teacher, plan)
    computing = Computing.chosen(config.compute, config.precision, config.channels_last)
    networks = [model] if teacher is None else [model, teacher]
    with contextlib.ExitStack() as stack:
        stack.enter_context(gradients(model))
        stack.enter_context(_training(networks))
        stack.enter_context(computing.placed(*networks))
        if features is not None:
            stack.enter_context(features.watched())
        yield BatchGradient(model, task, Objective(task, config, teacher, features), computing)


def train_mode(model: nn.Module) -> None:
    """But a frozen batch norm goes on to use its statistics: moving ones would change a body that is to stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


def _features(
    model: nn.Module, task: Task, config: FitConfig, teacher: nn.Module | None, plan: Plan | None
) -> Features | None:
    """What is compared beside the outputs; None where it has no weight."""
    if teacher is None or config.distill is None or not config.distill.features:
        return None
    return matched(teacher, model, plan, task.forward, next(iter(task.train.epoch(None))))


@contextmanager
def _training(networks: list[nn.Module]) -> Iterator[None]:
    """Modes of all modules and the global random generators are the caller's again afterwards; a teacher, which
    comes second, only looks on."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    generators = RandomState()
    try:
        for teacher in networks[1:]:
            teacher.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        generators.restore()
