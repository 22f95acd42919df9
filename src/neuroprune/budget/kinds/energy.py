"""Energy: modelled from operations and bytes; for ranking, never a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from neuroprune.base.nouns import Cost
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting, free
from neuroprune.budget.observed import Call, calls
from neuroprune.budget.problem import Layer, LayerCost
from neuroprune.devices.energy import SOURCE, modelled_energy
from neuroprune.devices.single_layer import Precision
from neuroprune.graph.cost import cost

_BYTES = {"fp32": 4, "int8": 1}


class EnergyBudget:
    """Microjoule per example: operations, weights from DRAM, outputs of layers through SRAM; modelled."""

    label: Literal["modelled"] = "modelled"
    noise = 0.0

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        return {name: _of_network(one, setting) for name, one in variants.items()}

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        precision = setting.target.precision
        return [_of_layer(found, precision) if (found := setting.calls.get(one.name)) else free for one in layers]


def _of_network(variant: Variant, setting: Setting) -> float:
    size = _BYTES[variant.precision]
    written = size * sum(call.written for call in calls(variant.model, setting.example))
    return modelled_energy(
        cost(variant.model, setting.example), activation_bytes=written, dtype=variant.precision
    )[1]


def _of_layer(found: Sequence[Call], precision: Precision) -> LayerCost:
    """Operations and weights go with both widths, what is written with the outputs."""
    size, values = _BYTES[precision], found[0].values
    counted = Cost(values, sum(call.macs for call in found), 4 * values)
    both = modelled_energy(counted, weight_bytes=size * values, dtype=precision)[1]
    each = modelled_energy(Cost(0, 0, 0), activation_bytes=size, dtype=precision)[1]

    def total(rows: float, columns: float) -> float:
        written = sum(call.written * call.shares(rows, columns)[1] for call in found)
        return both * rows * columns + each * written

    return total


KINDS.register("energy", summary="microjoule per example, modelled", source=SOURCE)(EnergyBudget())
