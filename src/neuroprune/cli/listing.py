"""``neuroprune list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.cli.options import (
    guarded,
)

if TYPE_CHECKING:
    from neuroprune.base.registry import Registry


@guarded
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="One of: criteria, steps, techniques, strategies, data, ... (all by default)."),
    ] = None,
) -> None:
    """What can be named in recipes and on the command line, with a line and a source each."""
    registries = _registries()
    if kind is not None and kind not in registries:
        guess = nearest(kind, registries)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"there is no kind {kind!r}", mend=f"{hint}kinds: {', '.join(registries)}")
    for name in [kind] if kind is not None else list(registries):
        typer.echo(f"{name}:")
        entries = registries[name].entries()
        width = max(12, *(len(entry.name) for entry in entries))
        for entry in entries:
            source = f"  [{entry.source}]" if entry.source else ""
            needs = f"{_needs(entry.value):<12} " if name == "criteria" else ""
            typer.echo(f"  {entry.name:<{width}} {needs}{entry.summary}{source}")


def _needs(criterion: Any) -> str:
    """What a criterion looks at beside the model; `paths` is of the weights and the shape of an input alone."""
    return ", ".join(sorted(criterion.needs - {"paths"})) or "weights"


def _registries() -> dict[str, Registry[Any]]:
    import neuroprune.pipeline.steps  # fills STEPS
    import neuroprune.search.strategies  # noqa: F401  # fills STRATEGIES
    from neuroprune.budget.allocations import ALLOCATIONS
    from neuroprune.budget.kinds import KINDS
    from neuroprune.compression.npc import CODECS
    from neuroprune.compression.precisions import PRECISIONS
    from neuroprune.compression.ranges import RANGES
    from neuroprune.devices import DEVICES
    from neuroprune.export import EXPORTS
    from neuroprune.pipeline.step import STEPS
    from neuroprune.pruning import CRITERIA
    from neuroprune.pruning.block_scores import BLOCK_CRITERIA
    from neuroprune.pruning.schedules import SCHEDULES
    from neuroprune.search._base import STRATEGIES
    from neuroprune.search.rewards import REWARDS
    from neuroprune.tasks.datasets import DATASETS
    from neuroprune.techniques import TECHNIQUES

    return {
        "criteria": CRITERIA,
        "block-criteria": BLOCK_CRITERIA,
        "allocations": ALLOCATIONS,
        "budgets": KINDS,
        "strategies": STRATEGIES,
        "rewards": REWARDS,
        "steps": STEPS,
        "techniques": TECHNIQUES,
        "schedules": SCHEDULES,
        "data": DATASETS,
        "devices": DEVICES,
        "exports": EXPORTS,
        "calibrations": RANGES,
        "precisions": PRECISIONS,
        "codecs": CODECS,
    }
