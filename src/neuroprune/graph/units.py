"""From components to units (what must go together) and groups (units of the same footprint)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

import numpy as np

from neuroprune.graph.records import Reason, Records
from neuroprune.graph.resolve import Components, unique_rows


@dataclass(frozen=True, eq=False)
class Slice:
    """``indices[i]`` = the indices along dimension ``dim`` of ``tensor`` that belong to unit i: [units, k]."""

    tensor: str
    dim: int
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable units, named after the first tensor they cut; removing a unit removes all its slices.

    ``kind``: ``channel``, ``head`` (an attention head or key-value group), ``head_dim`` (the same place in every
    head) or ``conv_group``. ``statistics``: what is kept is normalised over the kept units (layer norm, say), so
    its values change. Groups of heads and head dimensions cut the same tensors: what stays is the rectangle.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    kind: str = "channel"
    statistics: bool = False
    #: the basic component of each unit, for whoever reads the trace's labels
    components: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def matches(self, patterns: Sequence[str]) -> bool:
        """One of the patterns (``layer1.*``) is of the group's name or of a tensor that it cuts."""
        names = [self.name, *(part.tensor for part in self.slices)]
        return any(fnmatch(name, pattern) for name in names for pattern in patterns)


@dataclass(frozen=True)
class Refusal:
    """A dimension of a parameter that holds what stays, and why. ``where`` is ``file:line`` of the user's code.

    The same dimension may be cut in another way: heads of a joint query, key and value go, the three do not.
    """

    parameter: str
    dim: int
    operator: str
    module: str
    where: str
    reason: str


Owner = tuple[str, int, int, int]  # tensor name, dim, first label, count


def group_units(
    records: Records, owners: Sequence[Owner], components: Components, parameters: Collection[str]
) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """Free components become units, units of equal footprint a group; the rest is refused with its reason."""
    place = _owned(owners, components)
    free = _free(records, components)
    _hold_buffers(owners, parameters, components, place, free)
    signature = _signatures(records, components, place)
    refused = _refusals(owners, components, place, free)
    return _groups(records, owners, components, place, signature, free), refused


def _hold_buffers(
    owners: Sequence[Owner],
    parameters: Collection[str],
    components: Components,
    place: _Places,
    free: np.ndarray,
) -> None:
    """What no parameter has a part in (a table of constants, say) was not learnt and is not cut."""
    learnt = np.zeros(free.size, dtype=bool)
    is_parameter = np.array([name in parameters for name, *_ in owners], dtype=bool)
    if is_parameter.size:
        learnt[place.base[is_parameter[place.owner]]] = True
    reason = Reason("buffer", "", "", "belongs to buffers alone")
    components.pinned.add(np.flatnonzero(free & ~learnt), reason)
    free &= learnt


@dataclass(frozen=True, eq=False)
class _Places:
    """One row per (basic component, owner, index): where in the model's tensors a component sits; sorted."""

    base: np.ndarray
    owner: np.ndarray
    index: np.ndarray


def _owned(owners: Sequence[Owner], components: Components) -> _Places:
    if not owners:
        return _Places(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    counts = np.array([count for *_, count in owners])
    labels = np.concatenate([np.arange(first, first + count) for *_, first, count in owners])
    owner = np.repeat(np.arange(len(owners)), counts)
    index = np.concatenate([np.arange(count) for count in counts])
    position, base = components.bases(labels)
    order = np.argsort(base, kind="stable")  # owners and indices ascend already
    return _Places(base[order], owner[position][order], index[position][order])


def _free(records: Records, components: Components) -> np.ndarray:
    """Per component: it is not pinned, and a sum consumes it. What no sum consumes was lost on the way."""
    free: np.ndarray = _touched(records.consumed, components) & ~components.pinned.all
    return free


def _signatures(records: Records, components: Components, place: _Places) -> np.ndarray:
    """Per component a hash over (owner, how many indices), (counted vector, how many) and roles in products.

    Components with equal signatures are interchangeable. Sums of mixed 64-bit hashes: equal sets give equal
    sums, and different ones collide with probability about n^2 / 2^64.
    """
    size = components.start.size - 1
    total = np.zeros(size, dtype=np.uint64)
    _add(total, place.base, place.owner, 1)
    for number, vector in enumerate(records.vectors):
        base = components.bases(vector)[1]
        _add(total, base, np.full(base.size, number), 2)
    _add(total, *components.roles, 3)
    return total


def _add(total: np.ndarray, base: np.ndarray, key: np.ndarray, salt: int) -> None:
    if not base.size:
        return
    span = np.int64(key.max() + 1)
    pairs, counts = np.unique(base.astype(np.int64) * span + key, return_counts=True)
    hashed = _mix((pairs % span).astype(np.uint64) * np.uint64(4) + np.uint64(salt))
    np.add.at(total, pairs // span, _mix(hashed ^ (counts.astype(np.uint64) << np.uint64(20))))


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _groups(
    records: Records,
    owners: Sequence[Owner],
    components: Components,
    place: _Places,
    signature: np.ndarray,
    free: np.ndarray,
) -> tuple[Group, ...]:
    usable = free[place.base]
    base, owner, index = place.base[usable], place.owner[usable], place.index[usable]
    start = np.flatnonzero(np.r_[True, base[1:] != base[:-1]]) if base.size else np.empty(0, dtype=np.int64)
    end = np.r_[start[1:], base.size]
    families: dict[int, list[int]] = defaultdict(list)  # signature -> rows of ``start``
    order = np.lexsort((index[start], owner[start])) if base.size else start
    for row in order.tolist():
        families[int(signature[base[start[row]]])].append(row)
    kinds, statistics = _kinds(records, components), _touched(records.statistics, components)
    found = []
    for rows in families.values():
        one = slice(start[rows[0]], end[rows[0]])
        members = base[start[rows]]
        spots = np.array(start)[rows][:, None] + np.arange(one.stop - one.start)
        table = index[spots]
        owned = owner[one]
        slices = tuple(
            Slice(owners[o][0], owners[o][1], table[:, owned == o]) for o in sorted(set(owned.tolist()))
        )
        kind = kinds.get(int(members[0]), "channel")
        found.append((slices, len(rows), kind, bool(statistics[members].any()), members))
    return _named(found)


def _kinds(records: Records, components: Components) -> dict[int, str]:
    """Kinds of components by the operators they met; partners of heads in a product are head dimensions."""
    kinds: dict[int, str] = {}
    for labels, kind in records.kinds:
        for number in np.unique(components.bases(labels)[1]).tolist():
            kinds[number] = kind if kinds.get(number) != "head" else "head"
    counts = np.diff(components.start)
    is_head = np.zeros(counts.size, dtype=bool)
    is_head[[n for n, kind in kinds.items() if kind == "head"]] = True
    whole = np.repeat(np.arange(counts.size), counts)
    with_head = np.zeros(counts.size, dtype=bool)
    with_head[whole[is_head[components.base]]] = True
    for part in np.unique(components.base[(with_head & (counts > 1))[whole]]).tolist():
        kinds.setdefault(part, "head_dim")
    return kinds


def _touched(vectors: Sequence[np.ndarray], components: Components) -> np.ndarray:
    touched = np.zeros(components.start.size - 1, dtype=bool)
    if vectors:
        touched[components.bases(np.concatenate([labels.ravel() for labels in vectors]))[1]] = True
    return touched


def _named(found: list[tuple[tuple[Slice, ...], int, str, bool, np.ndarray]]) -> tuple[Group, ...]:
    """Groups named after their first tensor; a second group of the same tensor gets ``#2``."""
    seen: dict[str, int] = defaultdict(int)
    groups = []
    for slices, size, kind, statistics, members in found:
        name = slices[0].tensor.removesuffix(".weight")
        seen[name] += 1
        full = name if seen[name] == 1 else f"{name}#{seen[name]}"
        groups.append(Group(full, size, slices, kind, statistics, members))
    return tuple(groups)


def renamed(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The same groups, named anew (some of a tensor's groups were taken out)."""
    return _named([(g.slices, g.size, g.kind, g.statistics, g.components) for g in groups])


def _refusals(
    owners: Sequence[Owner], components: Components, place: _Places, free: np.ndarray
) -> tuple[Refusal, ...]:
    """One line per tensor dimension that holds something pinned, with the first reason."""
    stuck = ~free[place.base]
    pairs = unique_rows(np.stack([place.owner[stuck], place.base[stuck]], axis=1))
    quiet = np.array([why.quiet for why in components.pinned.reasons] + [True])  # the last: no reason at all
    loud = pairs[~quiet[components.pinned.number[pairs[:, 1]]]]
    first = np.unique(loud[:, 0], return_index=True)[1]
    out = []
    for owner, base in loud[first].tolist():
        why, (tensor, dim, *_) = components.pinned.why(base), owners[owner]
        assert why is not None
        out.append(Refusal(tensor, dim, why.operator, why.module, why.where, why.text))
    return tuple(out)
