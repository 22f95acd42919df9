"""From ties and products to components: which labels go together, and of which basic ones the others are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from neuroprune.graph.labels import FIXED
from neuroprune.graph.records import Reason, Records

Pairs = tuple[np.ndarray, np.ndarray]


class Pinned:
    """Which components stay, each with the first reason that was given; its number is -1 where there is none."""

    def __init__(self, components: int) -> None:
        self.number = np.full(components, -1, dtype=np.int64)
        self.reasons: list[Reason] = []

    def add(self, components: np.ndarray, reason: Reason) -> None:
        fresh = components[self.number[components] < 0]
        self.number[fresh] = len(self.reasons)
        self.reasons.append(reason)

    @property
    def all(self) -> np.ndarray:
        """bool [components]."""
        held: np.ndarray = self.number >= 0
        return held

    def why(self, component: int) -> Reason | None:
        number = int(self.number[component])
        return None if number < 0 else self.reasons[number]


@dataclass(frozen=True, eq=False)
class Components:
    """``of[label]`` is the label's component; ``start``/``base`` list the basic ones each component is made of.

    A basic component is made of itself; a product goes when any of its basic components goes.
    """

    of: np.ndarray
    start: np.ndarray
    base: np.ndarray
    pinned: Pinned
    roles: Pairs  # (basic component, place it takes in a product), once per element

    def bases(self, labels: np.ndarray) -> Pairs:
        """(position in ``labels``, basic component): one entry per basic component of each label but FIXED."""
        position = np.flatnonzero(labels != FIXED)
        component = self.of[labels[position]]
        counts = self.start[component + 1] - self.start[component]
        offsets = np.repeat(self.start[component], counts) + _ranges(counts)
        return np.repeat(position, counts), self.base[offsets]


def resolve(records: Records) -> Components:
    """Tie what must be tied until every component has at most one definition, then expand the definitions."""
    size = records.next_label
    ties = list(records.ties)
    pins = list(records.pins)
    products = _without_fixed(records, ties, pins)
    while True:
        of = _connect(ties, size)
        told = (_telling(unique_rows(of[rows])) for rows in products)
        tables = [table for table in told if len(table)]  # none is left where everything collapsed
        extra = _conflicts(tables)
        if not extra:
            break
        first = _representatives(of)
        ties += [(first[a], first[b]) for a, b in extra]
    start, base = _expand(tables, int(of.max(initial=0)) + 1)
    roles = _roles(tables)
    components = Components(of, start, base, Pinned(start.size - 1), roles)
    for labels, reason in pins:
        components.pinned.add(components.bases(labels)[1], reason)
    return components


def unique_rows(table: np.ndarray) -> np.ndarray:
    """``np.unique(table, axis=0)`` of numbers >= 0."""
    key = _one_number_each(table)
    rows: np.ndarray = np.unique(table, axis=0) if key is None else table[np.unique(key, return_index=True)[1]]
    return rows


def row_counts(table: np.ndarray) -> np.ndarray:
    """How often each of the rows (numbers >= 0) is there."""
    key = _one_number_each(table)
    return np.unique(table if key is None else key, axis=0, return_counts=True)[1]


def _one_number_each(table: np.ndarray) -> np.ndarray | None:
    """A number for each row, in the order of the rows: quicker to sort. None where rows do not fit into one."""
    span = int(table.max(initial=0)) + 1
    if span ** table.shape[1] >= 2**63:
        return None
    key = table[:, 0]
    for column in range(1, table.shape[1]):
        key = key * span + table[:, column]
    return key


def _connect(ties: list[Pairs], size: int) -> np.ndarray:
    if not ties:
        return np.arange(size)
    left, right = (np.concatenate([pair[i] for pair in ties]) for i in (0, 1))
    graph = coo_array((np.ones(left.size, dtype=np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _telling(table: np.ndarray) -> np.ndarray:
    """Without rows that say that something goes when it goes itself."""
    telling: np.ndarray = table[(table != table[:, :1]).any(axis=1)]
    return telling


def _representatives(of: np.ndarray) -> np.ndarray:
    first = np.zeros(int(of.max(initial=0)) + 1, dtype=np.int64)
    first[of[::-1]] = np.arange(of.size)[::-1]
    return first


def _without_fixed(records: Records, ties: list[Pairs], pins: list[tuple[np.ndarray, Reason]]) -> list[np.ndarray]:
    """Products as tables [rows, 1 + parts], one per number of parts; FIXED parts drop out.

    A whole that is FIXED or pinned pins its parts. Saying so here keeps large tables that cannot shrink anyway
    (relative positions, say) out of all that follows.
    """
    by_arity: dict[int, list[np.ndarray]] = {}
    fixed = Reason("product", "", "", "is one dimension of a block that cannot shrink")
    why = np.full(records.next_label, -1)
    for number in range(len(pins) - 1, -1, -1):
        why[pins[number][0]] = number
    why[FIXED] = len(pins)
    reasons = [*(reason for _, reason in pins), fixed]
    for whole, parts in records.products:
        table = np.stack([whole, *parts], axis=1)
        stuck = why[whole] >= 0
        if stuck.any():
            for number in np.unique(why[whole[stuck]]).tolist():
                rest = table[why[whole] == number, 1:].ravel()
                pins.append((rest[rest != FIXED], reasons[number]))
            table = table[~stuck]
            if not table.size:
                continue
        for arity in range(2, table.shape[1] + 1):
            rows = table[(table[:, 1:] != FIXED).sum(axis=1) == arity - 1]
            if rows.size:
                kept = rows[rows != FIXED].reshape(-1, arity)
                by_arity.setdefault(arity, []).append(kept)
        lost = table[(table[:, 1:] == FIXED).all(axis=1), 0]
        if lost.size:
            pins.append((lost, fixed))
    ties += [(t[:, 0], t[:, 1]) for t in by_arity.pop(2, [])]
    return [unique_rows(np.concatenate(tables)) for _, tables in sorted(by_arity.items())]


def _conflicts(tables: list[np.ndarray]) -> list[Pairs]:
    """Ties that make definitions agree: columnwise for equal arity, everything for cycles and mixed arity."""
    extra: list[Pairs] = []
    for table in tables:
        same = np.flatnonzero(table[1:, 0] == table[:-1, 0]) if len(table) > 1 else np.empty(0, dtype=np.int64)
        for column in range(1, table.shape[1]):
            a, b = table[same, column], table[same + 1, column]
            extra += [(a[a != b], b[a != b])] if (a != b).any() else []
        own = (table[:, 1:] == table[:, :1]).any(axis=1)
        extra += _collapsed(table[own])
    if extra:
        return extra
    for i, small in enumerate(tables):
        for large in tables[i + 1 :]:
            both = np.intersect1d(small[:, 0], large[:, 0])
            for table in (small, large):
                extra += _collapsed(table[np.isin(table[:, 0], both)])
    return extra or _cycles(tables)


def _collapsed(rows: np.ndarray) -> list[Pairs]:
    """The whole and all of its parts go together: always sound, at the price of coarser units."""
    pairs = [(rows[:, 0], rows[:, c]) for c in range(1, rows.shape[1])] if rows.size else []
    return [(a[a != b], b[a != b]) for a, b in pairs if (a != b).any()]


def _cycles(tables: list[np.ndarray]) -> list[Pairs]:
    """Wholes that are, through others, parts of themselves."""
    if not tables:
        return []
    edges = np.concatenate([np.stack([t[:, 0], t[:, c]], 1) for t in tables for c in range(1, t.shape[1])])
    size = int(edges.max()) + 1
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    strong = connected_components(graph, directed=True, connection="strong")[1]
    inside = edges[(strong[edges[:, 0]] == strong[edges[:, 1]]) & (edges[:, 0] != edges[:, 1])]
    return [(inside[:, 0], inside[:, 1])] if inside.size else []


def _expand(tables: list[np.ndarray], count: int) -> Pairs:
    """CSR (start, base): every component with the basic components it is made of."""
    everything = np.arange(count)
    if not tables:
        return np.arange(count + 1), everything
    defined = np.concatenate([np.repeat(t[:, 0], t.shape[1] - 1) for t in tables])
    parts = np.concatenate([t[:, 1:].ravel() for t in tables])
    order = np.argsort(defined, kind="stable")
    defined, parts = defined[order], parts[order]
    first = np.searchsorted(defined, np.arange(count + 1))
    made = first[1:] > first[:-1]
    whole = part = everything[made]
    while (counts := first[part + 1] - first[part]).any():
        inner = counts > 0
        grown = parts[np.repeat(first[part[inner]], counts[inner]) + _ranges(counts[inner])]
        pairs = np.stack(
            [np.concatenate([whole[~inner], np.repeat(whole[inner], counts[inner])]),
             np.concatenate([part[~inner], grown])], axis=1)  # fmt: skip
        pairs = unique_rows(pairs)
        whole, part = pairs[:, 0], pairs[:, 1]
    owners = np.concatenate(
        [everything[~made], whole]
    )  # most are made of themselves alone: not sorted with the rest
    order = np.argsort(owners, kind="stable")
    return np.searchsorted(owners[order], np.arange(count + 1)), np.concatenate([everything[~made], part])[order]


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0..counts[0]-1, 0..counts[1]-1, ..."""
    total = int(counts.sum())
    within: np.ndarray = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return within


def _roles(tables: list[np.ndarray]) -> Pairs:
    """(component, column) for every element of every product."""
    if not tables:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    part = np.concatenate([t[:, c] for t in tables for c in range(1, t.shape[1])])
    column = np.concatenate([np.full(len(t), c) for t in tables for c in range(1, t.shape[1])])
    return part, column
