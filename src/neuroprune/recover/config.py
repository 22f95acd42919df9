"""What a training run is told, and what it tells about each epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.recover.computing import DEVICES, PRECISIONS, Device, Precision

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "step", "constant", "onecycle"]


@dataclass(frozen=True)
class Distill:
    """Learn from a teacher's outputs: ``(1 - alpha) * loss + alpha * distance to the teacher``.

    Classifiers: ``temperature ** 2`` times the Kullback-Leibler divergence of the softened scores (Hinton,
    Vinyals, Dean 2015, arXiv:1503.02531). Anything else: the mean squared error of the outputs. ``features`` is
    the weight of a further term: the error of what the network's blocks give in the channels that are left, over
    the variance of what the teacher's give (`recover.features`; FitNets, Romero et al. 2015, arXiv:1412.6550).
    """

    temperature: float = 4.0
    alpha: float = 0.9
    features: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(
                "the temperature of distillation must be positive",
                where="Distill",
                value=self.temperature,
                mend="give temperature=4",
            )
        if not 0 <= self.alpha <= 1:
            raise UserError(
                "alpha of distillation must lie in 0..1", where="Distill", value=self.alpha, mend="give alpha=0.9"
            )
        if not 0 <= self.features < math.inf:
            raise UserError(
                "the weight of the features must be 0 or more",
                where="Distill",
                value=self.features,
                mend="give features=1",
            )


@dataclass(frozen=True)
class FitConfig:
    """One training run. ``lr`` is the peak; weight decay spares norms and biases; ``clip_norm`` None: no clip.

    The schedule ``step`` multiplies the rate by ``gamma`` at each of ``milestones``, shares of the whole run.

    Without ``patience`` all epochs are trained and the last one's weights count. With it training stops once so
    many epochs in a row have not raised the best metric on the validation data by more than ``min_delta`` (in the
    metric's unit), and the best epoch's weights count, also where nothing was stopped (Prechelt 1998).

    ``compute``: on a GPU where there is one (``auto``), or where it says; ``precision`` of the matrix products:
    ``bf16`` computes them in bfloat16 (torch.autocast) and leaves weights and optimizer in float32;
    ``channels_last``: images as [N, H, W, C] in memory, which convolutions of most processors prefer.
    """

    epochs: int
    lr: float = 0.05
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.5
    clip_norm: float | None = 5.0
    label_smoothing: float = 0.0
    seed: int = 0
    distill: Distill | None = None
    gamma: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    patience: int | None = None
    min_delta: float = 0.0
    compute: Device = "auto"
    precision: Precision = "fp32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        _one_of("compute", self.compute, DEVICES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("optimizer", self.optimizer, get_args(Optimizer))
        _one_of("schedule", self.schedule, get_args(Schedule))
        for name, low, high in (
            ("epochs", 0, math.inf),
            ("momentum", 0, 1),
            ("weight_decay", 0, math.inf),
            ("warmup_epochs", 0, math.inf),
            ("label_smoothing", 0, 1),
            ("gamma", 0, 1),
            ("min_delta", 0, math.inf),
            ("patience", 1, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{name} must be {_range(low, high)}",
                    where="FitConfig",
                    value=value,
                    mend=f"give another {name}, or leave it out",
                )
        if not 0 < self.lr < math.inf:
            raise UserError("lr must be positive", where="FitConfig", value=self.lr, mend="give lr=0.001")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(
                "clip_norm must be positive, or null for no clipping",
                where="FitConfig",
                value=self.clip_norm,
                mend="give clip_norm=5",
            )
        if not all(0 < share < 1 for share in self.milestones):
            raise UserError(
                "milestones are shares of the run, above 0 and below 1",
                where="FitConfig",
                value=self.milestones,
                mend="give milestones=(0.5, 0.75)",
            )
        if self.min_delta and self.patience is None:
            raise UserError(
                "min_delta does nothing without early stopping",
                where="FitConfig",
                value=self.min_delta,
                mend="give patience=5 with it, or leave it out",
            )

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The rate at ``step`` (0 is the first): a formula, so that a resumed run needs no scheduler state."""
        total = max(self.epochs * steps_per_epoch, 1)
        if self.schedule == "onecycle":
            return self.lr * _onecycle(min(step / total, 1.0))
        warm = min(self.warmup_epochs * steps_per_epoch, total / 2)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        done = min((step - warm) / max(total - warm, 1), 1.0)
        if self.schedule == "cosine":  # Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "step":  # He et al. 2015, section 4.2: a tenth at 50 % and again at 75 %
            return self.lr * math.prod(self.gamma for share in self.milestones if step >= share * total)
        return self.lr

    def improves(self, metric: float, best: float | None) -> bool:
        """Whether an epoch with this metric is the one to go back to."""
        return best is None or metric > best + self.min_delta

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _onecycle(done: float, rise: float = 0.3, start: float = 1 / 25) -> float:
    """Smith, Topin 2018, arXiv:1708.07120, with the cosine flanks and the shares of torch's OneCycleLR."""
    if done < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * done / rise)) / 2
    return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        guess = nearest(str(value), valid)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"unknown {name} {value!r}", mend=f"{hint}valid names: {', '.join(valid)}")


def _range(low: float, high: float) -> str:
    return f"in {low:g}..{high:g}" if high < math.inf else f"{low:g} or more"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean losses per example, the task's metric, seconds of wall time (training and validation).

    ``train_metric`` is counted during training (augmented data, weights on the move); None where the task
    brings an ``evaluate`` of its own. ``improved``, only with early stopping: the metric is the best so far, by
    ``min_delta``; the last such epoch is the one whose weights count.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    train_metric: float | None
    seconds: float
    improved: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
