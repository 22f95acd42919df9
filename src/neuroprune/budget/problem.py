"""What an allocation decides on: groups of units, what their removal does, and what the layers cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import nn

from neuroprune.graph.units import Group

#: (share of outputs left, share of inputs left) -> cost
LayerCost = Callable[[float, float], float]


@dataclass(frozen=True)
class Part:
    """A group's share of one side of a layer: each unit is ``each`` of that side's channels."""

    group: int
    each: float


@dataclass(frozen=True)
class Layer:
    """One layer whose cost depends on its widths. ``rows``, ``columns``: parts of the groups in them."""

    name: str
    rows: tuple[Part, ...]
    columns: tuple[Part, ...]


@dataclass(frozen=True)
class Costs:
    """``of[budget][layer]``: its cost; ``fixed[budget]``: what no choice changes."""

    layers: tuple[Layer, ...]
    of: Mapping[str, Sequence[LayerCost]]
    fixed: Mapping[str, float] = field(default_factory=dict)

    def total(self, budget: str, removed: np.ndarray) -> float:
        return self.fixed.get(budget, 0.0) + sum(self.layer(budget, n, removed) for n in range(len(self.layers)))

    def layer(self, budget: str, number: int, removed: np.ndarray) -> float:
        layer = self.layers[number]
        return self.of[budget][number](_left(layer.rows, removed), _left(layer.columns, removed))


def _left(parts: Sequence[Part], removed: np.ndarray) -> float:
    return 1.0 - sum(part.each * int(removed[part.group]) for part in parts)


def layers_of(model: nn.Module, groups: Sequence[Group], also: Iterable[str] = ()) -> tuple[Layer, ...]:
    """Layers with a weight that some group cuts, and the weights ``also``: rows are dimension 0, columns 1."""
    sides: dict[str, tuple[list[Part], list[Part]]] = {name: ([], []) for name in also}
    sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for number, group in enumerate(groups):
        for part in group.slices:
            if part.dim > 1 or len(sizes.get(part.tensor, ())) < 2:
                continue
            each = part.indices.shape[1] / sizes[part.tensor][part.dim]
            sides.setdefault(part.tensor, ([], []))[part.dim].append(Part(number, each))
    return tuple(Layer(name, tuple(rows), tuple(columns)) for name, (rows, columns) in sides.items())


def proportional(dense: float) -> LayerCost:
    """Multiply-accumulates, parameters: proportional to the product of the widths."""
    return lambda rows, columns: dense * rows * columns


class Known(Protocol):
    """What else may be asked about the network, worked out when it is first asked for (`evidence.py`)."""

    @property
    def dense(self) -> nn.Module:
        """The network, in evaluation mode; not to be written to."""
        ...

    def scores(self, criterion: str) -> Sequence[np.ndarray]:
        """[units] per group of the problem, larger means keep: as `neuroprune.pruning.score` gives them."""
        ...

    def curves(self) -> Sequence[np.ndarray]:
        """Per group, [units + 1]: measured error of the outputs after i of its units alone are gone."""
        ...


@dataclass(frozen=True)
class Problem:
    """``errors[g][i]``: error after i units of group g are gone; ``limits[budget]``: what ``costs`` may come to;
    ``allowed[g]``: counts of removed units that may be chosen, ascending from 0."""

    groups: Sequence[Group]
    errors: Sequence[np.ndarray]
    costs: Costs
    limits: Mapping[str, float]
    allowed: Sequence[Sequence[int]]
    known: Known
