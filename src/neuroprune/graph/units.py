"""From ties and pins to units (what must go together) and groups (units of the same footprint)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from neuroprune.graph.records import Reason, Records


@dataclass(frozen=True, eq=False)
class Slice:
    """``indices[i]`` = the indices along dimension ``dim`` of ``tensor`` that belong to unit i: [units, k]."""

    tensor: str
    dim: int
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable units, named after the first tensor they cut; removing a unit removes all its slices."""

    name: str
    size: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Refusal:
    """A dimension of a parameter that stays whole, and why. ``where`` is ``file:line`` of the user's code."""

    parameter: str
    dim: int
    operator: str
    module: str
    where: str
    reason: str


Owner = tuple[str, int, int, int]  # tensor name, dim, first label, count


def components(records: Records, labels: int) -> np.ndarray:
    """Component number of every label 0..labels-1."""
    if not records.ties:
        return np.arange(labels)
    left = np.concatenate([a for a, _ in records.ties])
    right = np.concatenate([b for _, b in records.ties])
    graph = coo_array((np.ones(left.size, dtype=np.int8), (left, right)), shape=(labels, labels))
    return np.asarray(connected_components(graph, directed=False)[1])


def reasons(records: Records, component: np.ndarray) -> dict[int, Reason]:
    """Pinned components, each with the first reason met."""
    first: dict[int, Reason] = {}
    for labels, reason in records.pins:
        for number in np.unique(component[labels]):
            first.setdefault(int(number), reason)
    return first


def group_units(
    records: Records, owners: Sequence[Owner], labels: int
) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """Free components become units, units of equal footprint a group; the rest is refused with its reason."""
    component = components(records, labels)
    pinned = reasons(records, component)
    consumed = np.zeros(component.max(initial=0) + 1, dtype=bool)
    for used in records.consumed:
        consumed[component[used]] = True
    footprint: dict[int, list[tuple[int, int]]] = defaultdict(list)  # component -> (owner, index)
    for number, (_, _, first, count) in enumerate(owners):
        for index, part in enumerate(component[first : first + count].tolist()):
            footprint[part].append((number, index))
    return _groups(owners, footprint, pinned, consumed), _refusals(owners, component, pinned)


def _groups(
    owners: Sequence[Owner],
    footprint: dict[int, list[tuple[int, int]]],
    pinned: dict[int, Reason],
    consumed: np.ndarray,
) -> tuple[Group, ...]:
    families: dict[tuple[tuple[int, int], ...], list[dict[int, list[int]]]] = defaultdict(list)
    for number, places in footprint.items():
        if number in pinned or not consumed[number]:
            continue  # a label that no sum consumes was lost on the way: never cut it
        unit: dict[int, list[int]] = defaultdict(list)
        for owner, index in places:
            unit[owner].append(index)
        families[tuple((owner, len(indices)) for owner, indices in sorted(unit.items()))].append(unit)
    return _named(
        [
            (
                owners[signature[0][0]][0],
                tuple(
                    Slice(owners[owner][0], owners[owner][1], np.array([unit[owner] for unit in units]))
                    for owner, _ in signature
                ),
                len(units),
            )
            for signature, units in sorted(families.items())
        ]
    )


def _named(found: list[tuple[str, tuple[Slice, ...], int]]) -> tuple[Group, ...]:
    """Groups named after their first tensor; a second group of the same tensor gets ``#2``."""
    seen: dict[str, int] = defaultdict(int)
    groups = []
    for tensor, slices, size in found:
        name = tensor.removesuffix(".weight")
        seen[name] += 1
        groups.append(Group(name if seen[name] == 1 else f"{name}#{seen[name]}", size, slices))
    return tuple(groups)


def _refusals(owners: Sequence[Owner], component: np.ndarray, pinned: dict[int, Reason]) -> tuple[Refusal, ...]:
    out = []
    for tensor, dim, first, count in owners:
        numbers = np.unique(component[first : first + count])
        why = next((pinned[int(n)] for n in numbers if int(n) in pinned), None)
        if why is not None:
            out.append(Refusal(tensor, dim, why.operator, why.module, why.where, why.text))
    return tuple(out)
