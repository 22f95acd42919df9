"""Latency: the network's file timed on the target, all of them in one run; layers from the target's table."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds._base import KINDS, Setting, free, within
from neuroprune.budget.problem import Layer, LayerCost
from neuroprune.devices import DEVICES
from neuroprune.devices.latency_table import LatencyTable, Surface, Wanted


class LatencyBudget:
    """Milliseconds of CPU time per call, median."""

    label: Literal["measured"] = "measured"
    noise = 0.03

    def figures(self, variants: Mapping[str, Variant], setting: Setting) -> dict[str, float]:
        target = setting.target
        files = {name: setting.files.path(one) for name, one in variants.items()}
        found = DEVICES.get(target.device).measure(
            files, setting.files.inputs(setting.dense), threads=target.threads, seconds=target.seconds
        )
        return {name: latency.cpu_p50_ms for name, latency in found.items()}

    def layers(self, layers: Sequence[Layer], setting: Setting) -> Sequence[LayerCost]:
        """From the table; a layer that runs several times costs the sum of its runs.

        What the table does not have, calls of operators and what stands between layers, is spread evenly: it goes
        with a layer that goes, and not with its channels. In networks of many small layers it is a third of all.
        """
        dense = self.figures({"dense": Variant(setting.dense, setting.target.precision)}, setting)["dense"]
        surfaces = self.surfaces(layers, setting)
        found = within([_summed(surfaces[one.name]) if surfaces[one.name] else free for one in layers], dense)
        found = _with_rest(found, dense)
        # allocations ask for the few widths that are allowed, a million times over
        return [functools.lru_cache(maxsize=2**16)(cost) for cost in found]

    def surfaces(self, layers: Sequence[Layer], setting: Setting) -> dict[str, list[Surface]]:
        """Weight -> one surface for every run of its layer."""
        target = setting.target
        table = LatencyTable(
            DEVICES.get(target.device), threads=target.threads, cache=target.cache, progress=setting.progress
        )
        wanted = {
            one.name: [
                Wanted(call.shape(target.batch, target.precision), bool(one.rows), bool(one.columns))
                for call in setting.calls.get(one.name, [])
            ]
            for one in layers
        }
        found = table.surfaces([w for several in wanted.values() for w in several])
        return {name: [found[w] for w in several] for name, several in wanted.items()}


def _with_rest(costs: Sequence[LayerCost], total: float) -> list[LayerCost]:
    """The same share of what they lack of ``total`` for each."""
    each = max(total - sum(cost(1.0, 1.0) for cost in costs), 0.0) / max(len(costs), 1)
    return [lambda rows, columns, cost=cost: cost(rows, columns) + each for cost in costs]  # type: ignore[misc]


def _summed(surfaces: Sequence[Surface]) -> LayerCost:
    if len(surfaces) == 1:
        return surfaces[0].at
    return lambda rows, columns: sum(surface.at(rows, columns) for surface in surfaces)


KINDS.register("latency", summary="milliseconds per call on the target, measured", source="HALP (Shen 2022)")(
    LatencyBudget()
)
