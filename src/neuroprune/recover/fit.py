"""One training loop for training, retraining under masks, fine-tuning and distillation."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.pruning.plan import Plan
from neuroprune.recover.batch_gradient import BatchGradient, BatchResult, train_mode
from neuroprune.recover.checkpoint import Checkpoint, put_back, run_identity, weights_of
from neuroprune.recover.config import Distill, EpochRecord, FitConfig
from neuroprune.recover.data_parallel import shared
from neuroprune.recover.hooks import Hook, SharesGradients
from neuroprune.tasks.batches import RandomState, batch_length, derive_seed
from neuroprune.tasks.task import Accuracy, Batch, Task

__all__ = ["Distill", "EpochRecord", "FitConfig", "fit"]


def fit(
    model: nn.Module,
    task: Task,
    config: FitConfig,
    *,
    teacher: nn.Module | None = None,
    plan: Plan | None = None,
    after_step: Callable[[], None] | None = None,
    hook: Hook | None = None,
    checkpoint: Path | None = None,
    until: int | None = None,
    progress: Progress | None = None,
    title: str = "training",
) -> list[EpochRecord]:
    """Train ``model`` in place on ``task.train``; one record per epoch, judged on ``task.val``.

    >>> records = fit(model, task, FitConfig(epochs=8, lr=0.1))                           # doctest: +SKIP

    ``teacher`` (left as it is) turns on distillation, with ``Distill()`` where the config names none; ``plan``
    is what made ``model`` of it, for ``Distill.features``.
    ``after_step`` runs after each optimizer step; masks apply themselves again there. ``hook``: what changes the
    network as it trains (`hooks.Hook`); its state goes into the checkpoint. ``checkpoint`` is a folder: the state
    after each epoch replaces the last one there, and a run that finds its own checkpoint goes on from it.
    ``until``: stop after this epoch, as if interrupted there. All randomness of an epoch derives from (seed,
    epoch) and the global generators are put back at the end, so an interrupted run ends with the same bits as a
    whole one at the same number of threads. ``progress`` is started and advanced per batch, not finished. Frozen
    parameters stay as they are, and so do the statistics of a batch norm whose parameters are frozen; where all
    are frozen, all are trained, and frozen again. The last epoch's weights count; with ``config.patience`` the
    best one's do, and the records end where training stopped.

    Raises UserError when the loss is no longer finite (epoch, batch and rate are named), for a teacher, labels
    or features that are lacking, and for a checkpoint folder of another run.
    """
    store = Checkpoint(checkpoint, run_identity(model, task, config, teacher, plan, hook)) if checkpoint else None
    _check_hook(hook, config)
    with shared(model, task, config, teacher, plan) as (gradient, backward):
        run = _Run(gradient, backward, config, after_step, progress or SilentProgress(), hook)
        if store is not None:
            run.records, run.best = store.restore(model, run.optimizer, hook)
        if hook is not None and not run.records:
            hook.start(config.epochs * run.steps)
        last = config.epochs if until is None else min(until, config.epochs)
        run.progress.start(title, max(last - len(run.records), 0) * run.steps)
        while not run.finished and len(run.records) < last:
            run.advance()
            if store is not None:
                store.save(model, run.optimizer, run.records, run.best, hook)
        if run.best is not None and run.finished:
            put_back(model, run.best)
    return run.records


def _check_hook(hook: Hook | None, config: FitConfig) -> None:
    if config.patience is not None and hook is not None and not getattr(hook, "goes_back", False):
        raise UserError(
            "early stopping goes back to the best epoch's weights, and here what is on changes from then on",
            value=f"patience {config.patience}",
            mend="leave patience out, or train on afterwards with it",
        )


class _Run:
    """The moving parts of one ``fit``."""

    def __init__(
        self,
        gradient: BatchGradient,
        backward: Callable[[Batch, str], BatchResult],
        config: FitConfig,
        after_step: Callable[[], None] | None,
        progress: Progress,
        hook: Hook | None,
    ) -> None:
        self.gradient, self.backward, self.config = gradient, backward, config
        self.model, self.task, self.computing = gradient.model, gradient.task, gradient.computing
        self.after_step, self.progress, self.hook = after_step, progress, hook
        self.optimizer = make_optimizer(self.model, config)
        self.steps = len(self.task.train)
        self.note = ""
        self.records: list[EpochRecord] = []
        self.best: dict[str, Tensor] | None = None  # weights of the best epoch, with early stopping

    @property
    def finished(self) -> bool:
        """Read off the records alone, so that a resumed run stops where a whole one does."""
        done, patience = len(self.records), self.config.patience
        if done >= self.config.epochs or patience is None:
            return done >= self.config.epochs
        return done >= patience and not any(record.improved for record in self.records[-patience:])

    def advance(self) -> None:
        """One more epoch; its weights are kept where they are the best so far."""
        record = self.epoch(len(self.records) + 1)
        if self.config.patience is not None:
            tops = [r.val_metric for r in self.records if r.improved]
            record = replace(record, improved=self.config.improves(record.val_metric, tops[-1] if tops else None))
            self.best = weights_of(self.model) if record.improved else self.best
        self.records.append(record)

    def epoch(self, epoch: int) -> EpochRecord:
        began = time.perf_counter()
        RandomState.seed(derive_seed(self.config.seed, epoch, "fit"))  # dropout, and what the user's code draws
        train_loss, train_metric = self._train(epoch)
        val_loss, val_metric = self._validate(epoch)
        self.note = f"loss {val_loss:.4g}, {self.task.metric} {val_metric:.2f} {self.task.metric_unit}".rstrip()
        return EpochRecord(epoch, train_loss, val_loss, val_metric, train_metric, time.perf_counter() - began)

    def _train(self, epoch: int) -> tuple[float, float | None]:
        """Mean loss, and the share of right predictions in percent where predictions are right or wrong."""
        total = examples = right = judged = 0.0
        train_mode(self.model)
        # rounds of short runs with seeds of their own must not see the same order each time
        batches = self.task.train.epoch(self.config.seed * 100_000 + epoch)
        for index, batch in enumerate(batches):
            rate = self.config.learning_rate((epoch - 1) * self.steps + index, self.steps)
            done = self._step(batch, rate, f"epoch {epoch}, batch {index}, lr {rate:.3g}")
            if self.hook is not None:
                count, steps = (epoch - 1) * self.steps + index + 1, self.config.epochs * self.steps
                self.hook.after_step(self.optimizer, count, steps)
            size = batch_length(batch)
            total, examples = total + done.loss * size, examples + size
            right, judged = right + done.right, judged + done.judged
            self.progress.advance(f"epoch {epoch}/{self.config.epochs}  {self.note or f'loss {done.loss:.4g}'}")
        return total / max(examples, 1), (100.0 * right / max(judged, 1) if self.gradient.counts else None)

    def _step(self, batch: Batch, rate: float, where: str) -> BatchResult:
        """One optimizer step; what the network said before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        done = self.backward(batch, where)
        _check_finite(done.loss, where)
        if isinstance(self.hook, SharesGradients):
            self.hook.after_backward()
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.after_step is not None:
            self.after_step()
        return done

    def _validate(self, epoch: int) -> tuple[float, float]:
        """Loss and metric on the validation data, in one pass where the metric is plain accuracy."""
        counts = isinstance(self.task.evaluate, Accuracy)
        total = examples = right = judged = 0.0
        with evaluation(self.model):
            for stored in self.task.val.epoch(None):
                batch, size = self.computing.moved(stored), batch_length(stored)
                output = self.computing.run(self.task.forward, self.model, batch)
                total += float(self.gradient.objective.plain(batch, output)) * size
                examples += size
                if counts:
                    hits, count = Accuracy.hits(batch, output)
                    right, judged = right + hits, judged + count
        loss = total / max(examples, 1)
        _check_finite(loss, f"validation after epoch {epoch}")
        return loss, 100.0 * right / max(judged, 1) if counts else self._own_metric()

    def _own_metric(self) -> float:
        """The task's ``evaluate`` knows no devices: it gets its network where its batches are."""
        if self.computing.device.type == "cpu":
            return self.task.evaluate(self.model, self.task.val)
        return self.task.evaluate(copy.deepcopy(self.model).cpu(), self.task.val)


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise UserError(
            "training diverged: the loss is not finite",
            where=where,
            value=loss,
            mend="lower lr, warm up longer or set clip_norm; check that the inputs are normalised",
        )


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; weight decay on matrices and kernels only.

    Raises UserError when the model has nothing to train.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(
            f"{type(model).__name__} has no trainable parameters",
            where=f"model {type(model).__name__}",
            value=f"{sum(1 for _ in model.parameters())} parameters, none of them of floating point",
            mend="give a network with floating-point weights, or leave training out",
        )
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
