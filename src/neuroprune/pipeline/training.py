"""Options and bookkeeping that every training step shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import StepConfig
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.recover.hooks import Hook


class FitOptions(StepConfig):
    """As `recover.fit.FitConfig`; the seed comes from the run.

    ``patience``: stop after so many epochs without a better metric on val, and keep the best epoch's weights;
    without it the last epoch counts.
    """

    epochs: int = Field(10, ge=0)
    lr: float = Field(0.05, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant", "onecycle"] = "cosine"
    warmup_epochs: float = Field(0.5, ge=0)
    clip_norm: float | None = Field(5.0, gt=0)
    gamma: float = Field(0.1, ge=0, le=1)
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    patience: int | None = Field(None, ge=1)
    min_delta: float = Field(0.0, ge=0)

    @field_validator("min_delta")
    @classmethod
    def _stops(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("patience") is None:
            raise ValueError("it does nothing without patience, the epochs after which training stops")
        return value

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
            gamma=self.gamma,
            milestones=self.milestones,
            patience=self.patience,
            min_delta=self.min_delta,
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
    model: nn.Module | None = None,
    hook: Hook | None = None,
) -> list[dict[str, Any]]:
    """Train ``model``, by default ``context.model``; return its entries of ``curves`` in
    results.json (none for 0 epochs).

    ``part`` tells several trainings of one step apart: their seeds and their checkpoints, which lie in
    ``context.work``, so that an interrupted step goes on from its last whole epoch.
    """
    epochs = options.epochs if epochs is None else epochs
    if epochs == 0:
        return []
    teacher: nn.Module | None = context.dense if distill is not None else None
    history = fit(
        context.model if model is None else model,
        context.task,
        options.fit_config(context.seed + part, epochs, distill),
        teacher=teacher,
        plan=None if teacher is None else context.plan,
        after_step=after_step,
        hook=hook,
        checkpoint=context.work / f"fit-{part:02d}",
        progress=context.progress,
        title=label,
    )
    metric = context.task.metric
    return [{"step": context.name, "label": label, "metric": metric, "epochs": [asdict(e) for e in history]}]


def how_long(curves: list[dict[str, Any]], asked: int) -> str:
    """For a step's summary: the epochs of its last training, and which one's weights count where it may stop."""
    epochs = curves[-1]["epochs"] if curves else []
    kept = [record["epoch"] for record in epochs if record["improved"]]
    return f"{len(epochs)} of {asked} epochs, epoch {kept[-1]} kept" if kept else f"{asked} epochs"
