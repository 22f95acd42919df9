"""What a pruning technique is given and what it gives back; the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import Registry, nearest
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.plan import Plan
from neuroprune.recover.config import EpochRecord, FitConfig
from neuroprune.tasks.task import Task


@dataclass(frozen=True)
class Setting:
    """``model``: trained and dense; it is copied, never changed. ``density``: the share of its parameters that may
    stay, 0..1. ``fit``: how long and how the thinner network is trained, in all. ``distil``: with ``model`` as its
    teacher. ``initial``: the weights before training, for techniques that prune then. ``work``: a folder for
    checkpoints, so that a technique that was interrupted goes on. Raises UserError for a density outside (0,
    1)."""

    model: nn.Module
    task: Task
    density: float
    fit: FitConfig
    distil: bool = False
    seed: int = 0
    initial: Mapping[str, Tensor] | None = None
    work: Path | None = None
    progress: Progress = field(default_factory=SilentProgress)

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise UserError(
                "the density must lie between 0 and 1: it is the share of the parameters that stays",
                value=self.density,
                mend="0.1 keeps a tenth of the parameters",
            )


@dataclass(frozen=True)
class Training:
    """One training run of a technique."""

    label: str
    records: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Thinned:
    """``model`` with what ``plan`` removed gone, and with what ``masks`` (over it) have off at zero.

    ``facts``: figures of the technique's own. ``notes``: what a user should know (layers that would have been
    emptied, say).
    """

    model: nn.Module
    plan: Plan | None = None
    masks: Masks | None = None
    trainings: tuple[Training, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def parameters_left(self) -> int:
        """Parameters that are there and not off."""
        off = 0 if self.masks is None else sum(int((mask == 0).sum()) for mask in self.masks.masks.values())
        return sum(p.numel() for p in self.model.parameters()) - off


#: ``(setting, **options) -> Thinned``: options are keyword arguments with types and defaults, which are checked
Technique = Callable[..., Thinned]

TECHNIQUES: Registry[Technique] = Registry("technique")


def run_technique(name: str, setting: Setting, **options: Any) -> Thinned:
    """Thin ``setting.model`` by the technique called ``name``.

    >>> thin = run_technique("weight", Setting(model, task, 0.1, FitConfig(10)), criterion="l1")  # doctest: +SKIP

    Raises UserError for unknown names and options, values that an option cannot take, networks that hold nothing
    of what the technique removes, and densities that it cannot reach.
    """
    return TECHNIQUES.get(name)(setting, **check_options(name, options))


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as the technique takes them. Raises UserError for one that it has not, or a value it cannot
    take."""
    technique = TECHNIQUES.get(name)
    kinds = {key: kind for key, kind in get_type_hints(technique).items() if key not in ("setting", "return")}
    for key in options:
        if key not in kinds:
            guess = nearest(key, kinds)
            raise UserError(
                f"the technique {name!r} has no option {key!r}",
                mend=(f"did you mean {guess!r}? " if guess else "") + f"options: {', '.join(kinds) or 'none'}",
            )
    checked = {}
    for key, value in options.items():
        try:
            checked[key] = TypeAdapter(kinds[key]).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"the option {key!r} of the technique {name!r}: {first['msg'][0].lower()}{first['msg'][1:]}",
                value=value,
                mend=f"see the docstring of {technique.__module__}",
            ) from None
    return checked
