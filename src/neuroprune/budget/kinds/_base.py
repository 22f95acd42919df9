"""What a kind of budget must offer: the figure of whole networks, and what each layer has a part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

from neuroprune.base.registry import Registry
from neuroprune.budget.problem import Layer, LayerCost
from neuroprune.recover.replay import Forward


@dataclass(frozen=True)
class Setting:
    """On what figures are taken. ``example``: inputs as `neuroprune.trace` takes them; ``batches``: calibration
    batches for ``forward``."""

    dense: nn.Module
    example: Any
    forward: Forward
    batches: Sequence[Any]


class BudgetKind(Protocol):
    """One kind of budget. ``label``: how its figures come about."""

    @property
    def label(self) -> Literal["measured", "modelled"]: ...

    def figures(self, models: Mapping[str, nn.Module], setting: Setting) -> dict[str, float]:
        """What each network costs, in the unit of the budget's limit; one call's figures may be compared."""
        ...

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        """What each layer of the dense network costs as a function of its widths, in the same unit. What the sum
        lacks of the whole network's figure is taken as fixed."""
        ...


KINDS: Registry[BudgetKind] = Registry("budget")
