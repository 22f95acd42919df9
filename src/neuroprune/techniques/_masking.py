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
from neuroprune.recover.hooks import GradualMasks, HeldMasks, Hook
from neuroprune.tasks.task import Batch
from neuroprune.techniques._base import Setting, Thinned, Training

#: batches that a criterion looks at for each choice
BATCHES = 8


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
    whole = sum(p.numel() for p in setting.model.parameters())
    covered = sum(mask.numel() for mask in masks.masks.values())
    rest = sum(p.numel() for p in model.parameters()) - covered
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
    end: float = 0.75,
    keep: Sequence[str] = (),
    model: nn.Module | None = None,
    label: str = "training under masks",
) -> Thinned:
    """Masks that tighten by ``schedule`` while the network is trained; at once where there is no training.

    ``model``: trained in place of a copy of the dense one (of which ``setting.density`` is a share all the same).
    N:M has one share, which goes at once.
    """
    model = copy.deepcopy(setting.model) if model is None else model
    masks = Masks.for_weights(model, keep)
    fraction = fraction_of(setting, masks, model)
    if pattern(shape).fixed or setting.fit.epochs == 0:
        schedule = "one-shot"
    hook = GradualMasks(
        masks,
        Schedule(schedule, target=fraction, end=0.0 if schedule == "one-shot" else end),
        lambda: saliency_of(setting, model, criterion),
        shape=shape,
        spread=spread,
        every=max(1, len(setting.task.train) * setting.fit.epochs // 30),
        name=f"{criterion} {setting.seed}",
    )
    if setting.fit.epochs == 0:
        hook.start(0)
    trainings = train(setting, model, label, hook)
    return Thinned(model.eval(), masks=masks, trainings=trainings, notes=spared(hook.spared))


def held(setting: Setting, model: nn.Module, masks: Masks, label: str) -> tuple[Training, ...]:
    """Train under masks that stay as they are."""
    masks.apply()
    return train(setting, model, label, HeldMasks(masks))


def spared(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} would have been emptied: its best block stays" for name in names)
