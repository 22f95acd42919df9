"""Memory: what a network adds to the peak of a process that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting, free, within
from neuroprune.budget.observed import Call
from neuroprune.budget.problem import Layer, LayerCost
from neuroprune.devices import DEVICES

#: the larger, the nearer the norm to the maximum, and the fewer layers have a part in it
_NORM = 8
_BYTES = {"fp32": 4, "int8": 1}


class MemoryBudget:
    """Resident bytes at the peak, less what the runtime held before the network was loaded; measured."""

    label: Literal["measured"] = "measured"
    noise = 0.03

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        device, inputs = DEVICES.get(setting.target.device), setting.files.inputs(setting.dense)
        found = {}
        for name, one in variants.items():
            memory = device.memory(setting.files.path(one), inputs, threads=setting.target.threads)
            found[name] = float(memory.peak - memory.baseline)
        return found

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        """Weights lie there all the time; of activations those that live at once, in the step with the most.

        The step of a layer holds its input and its output (what a skip connection keeps besides is left to the
        measurement). The maximum over steps is taken as their 8-norm, and that by its slope at the dense
        network, so that every layer has its own part: sum over steps of (live / norm)^7 * live = norm.
        """
        each = _BYTES[setting.target.precision]
        size = each * setting.target.batch
        live = {n: sum(size * (c.read + c.written) for c in cs) for n, cs in setting.calls.items()}
        norm = sum(value**_NORM for value in live.values()) ** (1 / _NORM)
        found = [_part(setting.calls[one.name], each, size * (live[one.name] / norm) ** (_NORM - 1))
                 if one.name in live else free for one in layers]  # fmt: skip
        dense = self.figures({"dense": Variant(setting.dense, setting.target.precision)}, setting)["dense"]
        return within(found, dense)


def _part(calls: Sequence[Call], each: int, slope: float) -> LayerCost:
    weight = float(each * calls[0].values)

    def cost(rows: float, columns: float) -> float:
        sides = [call.shares(rows, columns) for call in calls]
        moving = sum(c.read * left[0] + c.written * left[1] for c, left in zip(calls, sides, strict=True))
        return weight * rows * columns + slope * moving

    return cost


KINDS.register("memory", summary="bytes that the network adds to the process's peak, measured")(MemoryBudget())
