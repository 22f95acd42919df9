"""What a kind of budget must offer: the figure of whole networks, and what each layer has a part in it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import nn

from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import Registry
from neuroprune.budget.exported import ExportedFiles, Variant
from neuroprune.budget.observed import Call, calls
from neuroprune.budget.problem import Layer, LayerCost
from neuroprune.budget.target import Target
from neuroprune.recover.replay import Forward


@dataclass(frozen=True, eq=False)
class Setting:
    """On what figures are taken. ``example``: inputs as `neuroprune.trace` takes them; ``batches``: calibration
    batches for ``forward``; ``target``: where the network will run, and in which precision."""

    dense: nn.Module
    example: Any
    forward: Forward
    batches: Sequence[Any]
    target: Target = field(default_factory=Target)
    progress: Progress = field(default_factory=SilentProgress)

    @functools.cached_property
    def files(self) -> ExportedFiles:
        """Networks exported for ``target``, each written once."""
        return ExportedFiles(
            self.example, self.forward, self.batches, batch=self.target.batch, calibration=self.target.calibration
        )

    @functools.cached_property
    def calls(self) -> dict[str, list[Call]]:
        """Weight -> runs of its layer in the dense network. Layers that are no modules are not seen."""
        found: dict[str, list[Call]] = {}
        for call in calls(self.dense, self.example):
            found.setdefault(call.weight, []).append(call)
        return found


class BudgetKind(Protocol):
    """One kind of budget. ``label``: how its figures come about. ``noise``: the share by which the same network
    may come out dearer when it is measured again."""

    @property
    def label(self) -> Literal["measured", "modelled"]: ...

    @property
    def noise(self) -> float: ...

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        """What each network costs, in the unit of the budget's limit; one call's figures may be compared."""
        ...

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        """What each layer of the dense network costs as a function of its widths, in the same unit and in the
        target's precision: not negative, rising with the widths. What the sum lacks of the whole network's figure
        is taken as fixed; where it is more than that (see ``within``), all are scaled down."""
        ...


KINDS: Registry[BudgetKind] = Registry("budget")


def free(rows: float, columns: float) -> float:
    """The cost of a layer that nothing is known of."""
    return 0.0


def within(costs: Sequence[LayerCost], total: float) -> list[LayerCost]:
    """The costs, scaled down where those of the dense layers come to more than the ``total`` they are parts of."""
    whole = sum(cost(1.0, 1.0) for cost in costs)
    if whole <= total:
        return list(costs)
    share = total / whole
    return [lambda rows, columns, cost=cost: share * cost(rows, columns) for cost in costs]  # type: ignore[misc]
