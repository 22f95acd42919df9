"""Dynamic programming over groups whose layers' costs are coupled: the least error within one budget.

Groups are decided one after another (units go in their order of removal, so a group is a count: the prefix
constraint of HALP, Shen et al. 2022). A table holds, for every combination of counts of the groups on the frontier
(those that still share a layer with an undecided one) and for every interval of cost, the least error, as in the
knapsack problem. A layer's cost is added when its last group is decided, so chains, trees and hubs with leaves are
solved as they are. Costs are never rounded: each entry carries its own, and intervals only decide which entries
compete. Without competition in an interval (few choices) the result is the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: entries of a table, at most: combinations of counts times intervals of cost
ENTRIES = 1 << 18
INTERVALS = (256, 1024)  # at least, at most


@dataclass(frozen=True)
class Term:
    """What some groups together cost: ``cost`` of the budget and ``error``, each [choices of group, ...]."""

    groups: tuple[int, ...]
    cost: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Order:
    """Groups in the order of decision; ``leaving[i]``: who leaves the frontier after step i; ``states``: most
    combinations of counts at once."""

    groups: tuple[int, ...]
    leaving: tuple[tuple[int, ...], ...]
    states: int


def order_of(choices: Mapping[int, int], links: Sequence[Sequence[int]]) -> Order:
    """Greedy: next comes the group that leaves the smallest frontier. ``choices``: how many each group has;
    ``links``: groups of each term."""
    waiting = {group: {n for n, link in enumerate(links) if group in link} for group in choices}
    members = [set(link) for link in links]
    done: list[int] = []
    frontier: list[int] = []
    leaving: list[tuple[int, ...]] = []
    most = 1

    def left_after(group: int) -> list[int]:
        decided = {*done, group}
        return [g for g in (*frontier, group) if any(members[n] - decided for n in waiting[g])]

    def size(groups: Sequence[int]) -> int:
        return int(np.prod([choices[g] for g in groups], dtype=np.float64))

    while len(done) < len(choices):
        open_ = [g for g in choices if g not in done]
        near = [g for g in open_ if any(members[n] & set(frontier) for n in waiting[g])] or open_
        best = min(near, key=lambda g: (size(left_after(g)), choices[g], g))
        most = max(most, size([*frontier, best]))
        kept = left_after(best)
        leaving.append(tuple(g for g in (*frontier, best) if g not in kept))
        done.append(best)
        frontier = kept
    return Order(tuple(done), tuple(leaving), most)


@dataclass
class _Table:
    """``error``, ``cost``: [choices of axes[0], ..., intervals]; an empty entry has an infinite error."""

    axes: list[int]
    error: np.ndarray
    cost: np.ndarray


def least_error(
    choices: Mapping[int, int], terms: Sequence[Term], order: Order, limit: float
) -> dict[int, int] | None:
    """Group -> number of its choice, for the least sum of errors whose costs are at most ``limit``; None: no such.

    Costs must not be negative. ``choices``: how many each group has; ``order``: of `order_of`.
    """
    intervals = min(max(ENTRIES // max(order.states, 1), INTERVALS[0]), INTERVALS[1])
    table = _Table([], np.full(intervals, np.inf), np.zeros(intervals))
    table.error[0] = 0.0
    past: list[tuple[str, int, list[int], np.ndarray]] = []
    for group, leaving in zip(order.groups, order.leaving, strict=True):
        ready = list(_ready(terms, set(table.axes), group))
        table, source = _decided(table, group, choices[group], ready, limit)
        past.append(("interval", group, list(table.axes), source))
        for gone in leaving:
            table, choice = _without(table, gone)
            past.append(("choice", gone, list(table.axes), choice))
    place = int(np.argmin(table.error))
    return _traced(past, place) if np.isfinite(table.error[place]) else None


def _ready(terms: Sequence[Term], axes: set[int], group: int) -> Iterator[Term]:
    for term in terms:
        if group in term.groups and set(term.groups) <= axes | {group}:
            yield term


def _decided(
    table: _Table, group: int, count: int, ready: Sequence[Term], limit: float
) -> tuple[_Table, np.ndarray]:
    """``group`` becomes the last axis; and from which interval each entry came."""
    axes = [*table.axes, group]
    shape = (*table.error.shape[:-1], count)
    cost, error = np.zeros(shape), np.zeros(shape)
    for term in ready:
        cost = cost + _aligned(term.cost, term.groups, axes)
        error = error + _aligned(term.error, term.groups, axes)
    costs = table.cost[..., None, :] + cost[..., None]
    errors = table.error[..., None, :] + error[..., None]
    return _sorted_in(axes, costs, errors, limit)


def _aligned(values: np.ndarray, groups: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """``values`` with one dimension per axis, broadcast where its groups are not."""
    places = [axes.index(g) for g in groups]
    order = np.argsort(places)
    shape = [1] * len(axes)
    for place, size in zip(places, values.shape, strict=True):
        shape[place] = size
    return values.transpose(order).reshape(shape)


def _sorted_in(axes: list[int], costs: np.ndarray, errors: np.ndarray, limit: float) -> tuple[_Table, np.ndarray]:
    """Entries in the intervals of their costs. Neighbours may meet there, every other one cannot: two rounds."""
    intervals = costs.shape[-1]
    place = np.minimum(costs * (intervals / max(limit, 1e-300)), intervals - 1).astype(np.int64)
    place[~np.isfinite(errors) | (costs > limit * (1 + 1e-9))] = intervals  # one more, for what is of no use
    shape = (*costs.shape[:-1], intervals + 1)
    error, cost = np.full(shape, np.inf), np.zeros(shape)
    source = np.zeros(shape, dtype=np.int16)
    numbers = np.broadcast_to(np.arange(intervals, dtype=np.int16), costs.shape)
    for start in (0, 1):
        at, new = place[..., start::2], errors[..., start::2]
        better = new < np.take_along_axis(error, at, -1)
        for held, given in ((cost, costs), (source, numbers), (error, errors)):
            old = np.take_along_axis(held, at, -1)
            np.put_along_axis(held, at, np.where(better, given[..., start::2], old), -1)
        error[..., -1] = np.inf
    return _Table(axes, error[..., :-1], cost[..., :-1]), source[..., :-1]


def _without(table: _Table, group: int) -> tuple[_Table, np.ndarray]:
    """The best choice of ``group`` for every entry; and which it is."""
    axis = table.axes.index(group)
    choice = np.argmin(table.error, axis=axis)
    best = np.expand_dims(choice, axis)
    error = np.take_along_axis(table.error, best, axis).squeeze(axis)
    cost = np.take_along_axis(table.cost, best, axis).squeeze(axis)
    return _Table([g for g in table.axes if g != group], error, cost), choice.astype(np.int16)


def _traced(past: Sequence[tuple[str, int, list[int], np.ndarray]], place: int) -> dict[int, int]:
    """Back from the last entry to the first: which choice each group made."""
    found: dict[int, int] = {}
    for kind, group, axes, pointer in reversed(past):
        at = tuple(found[g] for g in axes)
        if kind == "choice":
            found[group] = int(pointer[(*at, place)])
        else:
            place = int(pointer[(*at, place)])
    return found
