"""Size: bytes of the file that would ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting, within
from neuroprune.budget.problem import Layer, LayerCost

#: per value of a weight, and per output: float bias; integer layers have a scale and a zero point besides
_BYTES = {"fp32": (4.0, 4.0), "int8": (1.0, 9.0)}


class SizeBudget:
    """Bytes of the exported file, measured."""

    label: Literal["measured"] = "measured"
    noise = 0.0

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        return {name: float(setting.files.path(one).stat().st_size) for name, one in variants.items()}

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        value, output = _BYTES[setting.target.precision]
        sizes = dict(setting.dense.named_parameters())
        dense = self.figures({"dense": Variant(setting.dense, setting.target.precision)}, setting)["dense"]
        return within([_bytes(sizes[one.name], value, output) for one in layers], dense)


def _bytes(weight: nn.Parameter, value: float, output: float) -> LayerCost:
    values, outputs = value * weight.numel(), output * weight.shape[0]
    return lambda rows, columns: values * rows * columns + outputs * rows


KINDS.register("size", summary="bytes of the exported file, measured")(SizeBudget())
