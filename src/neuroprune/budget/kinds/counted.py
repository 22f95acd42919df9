"""Multiply-accumulates and parameters: counted from shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neuroprune.base.nouns import Cost
from neuroprune.budget.calibration import positions_per_weight
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting
from neuroprune.budget.problem import Layer, LayerCost, proportional
from neuroprune.graph.cost import cost


@dataclass(frozen=True)
class Counted:
    """``figure``: of a whole network; ``of_layer``: (values of its weight, uses of each) -> its part."""

    figure: Callable[[Cost], float]
    of_layer: Callable[[int, int], float]
    label: Literal["measured"] = "measured"
    noise: float = 0.0

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        return {name: float(self.figure(cost(one.model, setting.example))) for name, one in variants.items()}

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        uses = positions_per_weight(setting.dense, setting.forward, setting.batches[0])
        sizes = {name: p.numel() for name, p in setting.dense.named_parameters()}
        return [proportional(self.of_layer(sizes[one.name], uses.get(one.name, 0))) for one in layers]


KINDS.register("macs", summary="multiply-accumulates per example, counted")(
    Counted(lambda counted: counted.macs, lambda size, uses: float(size * uses))
)
KINDS.register("params", summary="parameters, counted")(
    Counted(lambda counted: counted.params, lambda size, uses: float(size))
)
