"""Multiply-accumulates and parameters: counted from shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neuroprune.base.nouns import Cost
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting
from neuroprune.budget.problem import Layer, LayerCost, proportional
from neuroprune.graph.cost import cost


@dataclass(frozen=True)
class Counted:
    """``figure``: of a whole network; ``of_layer``: (values of its weight, multiply-accumulates) -> its part."""

    figure: Callable[[Cost], float]
    of_layer: Callable[[int, int], float]
    label: Literal["measured"] = "measured"
    noise: float = 0.0

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        return {name: float(self.figure(cost(one.model, setting.example))) for name, one in variants.items()}

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        macs = {name: sum(call.macs for call in found) for name, found in setting.calls.items()}
        sizes = {name: p.numel() for name, p in setting.dense.named_parameters()}
        return [proportional(self.of_layer(sizes[one.name], macs.get(one.name, 0))) for one in layers]


KINDS.register("macs", summary="multiply-accumulates per example, counted")(
    Counted(lambda counted: counted.macs, lambda size, macs: float(macs))
)
KINDS.register("params", summary="parameters, counted")(
    Counted(lambda counted: counted.params, lambda size, macs: float(size))
)
