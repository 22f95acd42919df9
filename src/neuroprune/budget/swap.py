"""The last step of a choice of counts: two groups change at once, one way or the other, while every budget holds.

What prices reach is a corner of the convex hull, and giving units back one group at a time stops where no single
group fits any more. Here one group loses units so that another gets some back (pairwise exchange, as in the local
search of Lin, Kernighan 1973), the best gain in error first, until no pair gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neuroprune.budget.solve import _Solver

#: how many allowed counts up and down from a group's own are looked at, fewer where there are many groups
REACH = 6
MOVES = 1200
#: pairs whose budgets are counted per exchange, best gain first: only groups that share a layer fail there
CHECKS = 200


@dataclass(frozen=True)
class _Moves:
    """Other counts of single groups. ``gain``: error that goes; ``cost``: [moves, budgets] in shares of dense. The
    first moves nothing, so that a pair with it is a single move."""

    group: np.ndarray
    count: np.ndarray
    gain: np.ndarray
    cost: np.ndarray


def swapped(solver: _Solver, removed: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Counts of no larger error that hold ``limits``, as ``removed`` must. Deterministic."""
    linked = _linked(solver)
    while True:
        better = _best_exchange(solver, removed, limits, linked)
        if better is None:
            return removed
        removed = better


def _linked(solver: _Solver) -> np.ndarray:
    """bool [groups + 1, groups + 1]: they share a layer, so costs do not simply add; the last is no group."""
    shared = np.zeros((len(solver.errors) + 1, len(solver.costs.layers)))
    for group, layers in enumerate(solver.touching):
        shared[group, layers] = 1
    linked: np.ndarray = shared @ shared.T > 0
    return linked


def _best_exchange(
    solver: _Solver, removed: np.ndarray, limits: np.ndarray, linked: np.ndarray
) -> np.ndarray | None:
    moves = _moves(solver, removed)
    gains = moves.gain[:, None] + moves.gain[None, :]
    room = (limits * (1 + 1e-9) - solver.totals(removed)) / solver.scale
    fits = (moves.cost[:, None] + moves.cost[None, :] <= room).all(2)
    one, other = moves.group[:, None], moves.group[None, :]
    maybe = np.triu(fits | linked[one, other]) & (one != other)
    least = 1e-12 * max(sum(float(curve[-1]) for curve in solver.errors), 1e-300)
    first, second = np.nonzero(maybe & (gains > least))
    order = np.argsort(-gains[first, second], kind="stable")[:CHECKS]
    for trial in _trials(removed, moves, first[order], second[order]):
        if solver._fits(trial, limits):
            return trial
    return None


def _trials(removed: np.ndarray, moves: _Moves, first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    for pair in zip(first.tolist(), second.tolist(), strict=True):
        trial = removed.copy()
        for move in pair:
            if moves.group[move] >= 0:
                trial[moves.group[move]] = moves.count[move]
        yield trial


def _moves(solver: _Solver, removed: np.ndarray) -> _Moves:
    group, count, gain, cost = [-1], [0], [0.0], [np.zeros(len(solver.scale))]
    reach = max(1, min(REACH, MOVES // (2 * len(solver.errors) + 1)))
    for number, (curve, allowed) in enumerate(zip(solver.errors, solver.allowed, strict=True)):
        place, now = int(np.searchsorted(allowed, removed[number])), solver._own(number, removed)
        for other in allowed[max(place - reach, 0) : place + reach + 1].tolist():
            if other == removed[number]:
                continue
            trial = removed.copy()
            trial[number] = other
            group.append(number)
            count.append(other)
            gain.append(float(curve[removed[number]] - curve[other]))
            cost.append(solver._own(number, trial) - now)
    return _Moves(np.array(group), np.array(count), np.array(gain), np.stack(cost))
