"""Options and bookkeeping that every training step shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field
from torch import nn

from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import StepConfig
from neuroprune.recover.fit import Distill, FitConfig, fit


class FitOptions(StepConfig):
    """As `recover.fit.FitConfig`; the seed comes from the run."""

    epochs: int = Field(10, ge=0)
    lr: float = Field(0.05, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant", "onecycle"] = "cosine"
    warmup_epochs: float = Field(0.5, ge=0)
    clip_norm: float | None = Field(5.0, gt=0)

    def fit_config(self, seed: int, epochs: int, distill: Distill | None) -> FitConfig:
        return FitConfig(
            epochs=epochs,
            lr=self.lr,
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup_epochs=self.warmup_epochs,
            clip_norm=self.clip_norm,
            seed=seed,
            distill=distill,
        )


def fit_in(
    context: Context,
    options: FitOptions,
    *,
    label: str,
    part: int = 0,
    epochs: int | None = None,
    distill: Distill | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Train ``context.model``; return its entries of ``curves`` in results.json (none for 0 epochs).

    ``part`` tells several trainings of one step apart: their seeds and their checkpoints, which lie in
    ``context.work``, so that an interrupted step goes on from its last whole epoch.
    """
    epochs = options.epochs if epochs is None else epochs
    if epochs == 0:
        return []
    teacher: nn.Module | None = context.dense if distill is not None else None
    history = fit(
        context.model,
        context.task,
        options.fit_config(context.seed + part, epochs, distill),
        teacher=teacher,
        after_step=after_step,
        checkpoint=context.work / f"fit-{part:02d}",
        progress=context.progress,
        title=label,
    )
    metric = context.task.metric
    return [{"step": context.name, "label": label, "metric": metric, "epochs": [asdict(e) for e in history]}]
