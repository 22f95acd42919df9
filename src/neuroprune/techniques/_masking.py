"""What techniques that switch weights off have in common."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.patterns import pattern
from neuroprune.pruning.schedules import Schedule
from neuroprune.pruning.score import gather, saliencies
from neuroprune.pruning.select_weights import Spread
from neuroprune.recover.config import FitConfig
from neuroprune.recover.fit import fit
from neuroprune.recover.hooks import GradualMasks, HeldMasks, Hook, Saliencies
from neuroprune.tasks.task import Batch
from neuroprune.techniques._base import Setting, Thinned, Training

#: batches that a criterion looks at for each choice
BATCHES = 8


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def every(setting: Setting) -> int:
    """Steps between two choices of masks: some thirty choices in a training."""
    return max(1, len(setting.task.train) * setting.fit.epochs // 30)


def tightening(
    setting: Setting,
    masks: Masks,
    fraction: float,
    saliencies: Saliencies,
    *,
    schedule: str,
    shape: str = "weight",
    spread: Spread,
    name: str,
) -> GradualMasks:
    """Masks that follow ``schedule`` over three quarters of the training. All at once, and already in force, where
    there is none; N:M has one share, which goes at once."""
    if pattern(shape).fixed or setting.fit.epochs == 0:
        schedule = "one-shot"
    course = Schedule(schedule, target=fraction, end=0.0 if schedule == "one-shot" else 0.75)
    hook = GradualMasks(masks, course, saliencies, shape=shape, spread=spread, every=every(setting), name=name)
    if setting.fit.epochs == 0:
        hook.start(0)
    return hook


def first_batches(setting: Setting) -> Iterator[Batch]:
    """Of the training data, without augmentation: what criteria and batch norm may look at."""
    return islice(setting.task.train.epoch(None), BATCHES)


def train(
    setting: Setting, model: nn.Module, label: str, hook: Hook | None = None, *, config: FitConfig | None = None
) -> tuple[Training, ...]:
    """Train ``model`` in place under ``hook``; none for 0 epochs. Each label has a checkpoint of its own."""
    config = replace(config or setting.fit, seed=setting.seed)
    if config.epochs == 0:
        return ()
    folder = None if setting.work is None else setting.work / label.replace(" ", "-")
    teacher = setting.model if setting.distil else None
    records = fit(
        model, setting.task, config, teacher=teacher, hook=hook, checkpoint=folder, progress=setting.progress,
        title=label,
    )  # fmt: skip
    return (Training(label, tuple(records)),)


def fraction_of(setting: Setting, masks: Masks, model: nn.Module) -> float:
    """The share of the masked weights that must be off so that ``setting.density`` of the dense parameters stay.

    Raises UserError where what no mask covers is more than that already.
    """
    whole = parameters(setting.model)
    covered = sum(mask.numel() for mask in masks.masks.values())
    rest = parameters(model) - covered
    stays = (setting.density * whole - rest) / max(covered, 1)
    if stays <= 0 or not covered:
        raise UserError(
            "biases and norms, which no mask covers, are more than may stay",
            value=f"density {setting.density:g}, {rest:,} of {whole:,} parameters without a mask",
            mend=f"give a density above {rest / max(whole, 1):.3g}",
        )
    return max(0.0, 1 - stays)


def saliency_of(setting: Setting, model: nn.Module, criterion: str) -> Mapping[str, Tensor]:
    """Of every weight as it is now, by name; from `BATCHES` training batches where the criterion needs data.

    Raises UserError for criteria that score whole units.
    """
    rule = CRITERIA.get(criterion)
    statistics = gather(model, criterion, first_batches(setting), setting.task.forward, setting.task.loss)
    return saliencies(model, rule, statistics, setting.seed)


def sparse(
    setting: Setting,
    *,
    criterion: str,
    shape: str = "weight",
    spread: Spread = "normalised",
    schedule: str = "cubic",
    keep: Sequence[str] = (),
    model: nn.Module | None = None,
    label: str = "training under masks",
) -> Thinned:
    """Masks that tighten by ``schedule`` while the network is trained (`tightening`).

    ``model``: trained in place of a copy of the dense one (of which ``setting.density`` is a share all the same).
    """
    model = copy.deepcopy(setting.model) if model is None else model
    masks = Masks.for_weights(model, keep)
    hook = tightening(
        setting,
        masks,
        fraction_of(setting, masks, model),
        lambda: saliency_of(setting, model, criterion),
        schedule=schedule,
        shape=shape,
        spread=spread,
        name=f"{criterion} {setting.seed}",
    )
    trainings = train(setting, model, label, hook)
    return Thinned(model.eval(), masks=masks, trainings=trainings, notes=spared(hook.spared))


def held(setting: Setting, model: nn.Module, masks: Masks, label: str) -> tuple[Training, ...]:
    """Train under masks that stay as they are."""
    masks.apply()
    return train(setting, model, label, HeldMasks(masks))


def spared(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} would have been emptied: its best block stays" for name in names)
