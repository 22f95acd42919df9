"""Dynamic programming: the least error within one budget exactly, the others at a price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neuroprune.budget.allocations._base import ALLOCATIONS
from neuroprune.budget.allocations._levels import fits
from neuroprune.budget.frontier import ENTRIES, INTERVALS, Order, Term, least_error, order_of
from neuroprune.budget.problem import Problem
from neuroprune.budget.solve import choose_counts

#: counts per group that are looked at together: the most for which all combinations at once can be held
COUNTS = (1024, 512, 256, 128, 64, 48, 32, 24, 16, 12, 10, 8, 6, 5)
#: bisections of the price of the other budgets
PRICES = 12


@ALLOCATIONS.register(
    "dp",
    summary="least error by dynamic programming over one budget, the others priced; never worse than stream",
    source="Shen et al. 2022, HALP (prefix constraint); ours (coupled layers)",
)
def dp(problem: Problem) -> np.ndarray:
    """From the counts of ``stream`` on: among counts far apart, then nearer and nearer to the best so far.

    Where more groups hang together than a table can hold, those with the most neighbours stay at their widths.
    """
    best = choose_counts(problem.errors, problem.costs, problem.limits, problem.allowed).removed
    if not len(best):
        return best
    plan = _plan(problem)
    step = _first_step(problem, plan)
    while True:
        found = _improved(problem, plan, best, step)
        if step == 1 and (found == best).all():
            return found
        best, step = found, max(step // 2, 1)


def _links(problem: Problem) -> list[tuple[int, ...]]:
    """Groups of each layer."""
    return [tuple(sorted({p.group for p in (*layer.rows, *layer.columns)})) for layer in problem.costs.layers]


@dataclass(frozen=True)
class _Plan:
    """``count``: how many counts of each group are looked at together; ``free``: the groups that are decided."""

    count: int
    free: tuple[int, ...]


def _first_step(problem: Problem, plan: _Plan) -> int:
    """So far apart are the counts of the first round, that they reach from one end to the other."""
    return max(1, -(-max(len(a) for a in problem.allowed) // plan.count))


def _plan(problem: Problem) -> _Plan:
    """As many counts as a table can hold; where even few are too many, groups with many neighbours stay."""
    links, free = _links(problem), set(range(len(problem.groups)))
    while True:
        for count in COUNTS:
            choices = {g: min(count + 1, len(problem.allowed[g])) for g in sorted(free)}
            if order_of(choices, _among(links, free)).states <= ENTRIES // INTERVALS[0]:
                return _Plan(count, tuple(sorted(free)))
        free.remove(max(free, key=lambda g: (sum(len(link) for link in _among(links, free) if g in link), g)))


def _among(links: Sequence[tuple[int, ...]], free: set[int]) -> list[tuple[int, ...]]:
    return [tuple(g for g in link if g in free) for link in links]


def _improved(problem: Problem, plan: _Plan, best: np.ndarray, step: int) -> np.ndarray:
    """The best of ``best`` and what is found among counts ``step`` apart around it."""
    grid = _Grid.around(problem, plan, best, step)
    for found in grid.candidates():
        if _error(problem, found) < _error(problem, best) * (1 - 1e-12) and fits(problem, found):
            best = found
    return best


def _error(problem: Problem, removed: np.ndarray) -> float:
    return float(sum(curve[n] for curve, n in zip(problem.errors, removed, strict=True)))


@dataclass(frozen=True)
class _Grid:
    """``counts[g]``: what group g may come to; ``costs[budget][layer]``: of all combinations of its groups."""

    problem: Problem
    removed: np.ndarray
    counts: dict[int, np.ndarray]
    order: Order
    links: list[tuple[int, ...]]
    costs: dict[str, list[np.ndarray]]

    @classmethod
    def around(cls, problem: Problem, plan: _Plan, removed: np.ndarray, step: int) -> _Grid:
        counts = {g: _near(np.array(problem.allowed[g]), int(removed[g]), step, plan.count) for g in plan.free}
        links = _among(_links(problem), set(plan.free))
        order = order_of({g: len(c) for g, c in counts.items()}, links)
        costs = {b: [_costs(problem, removed, counts, b, n, link) for n, link in enumerate(links)]
                 for b in problem.limits}  # fmt: skip
        return cls(problem, removed, counts, order, links, costs)

    def candidates(self) -> Iterator[np.ndarray]:
        """The best within the main budget; where it misses others, the best at rising prices for them."""
        problem, found = self.problem, self.solved(0.0)
        if found is None:
            return
        yield found
        if len(problem.limits) == 1 or fits(problem, found):
            return
        worst = sum(float(curve[-1]) for curve in problem.errors)
        low, high = 1e-4 * worst, 1e4 * worst
        for _ in range(PRICES):
            price = (low * high) ** 0.5
            found = self.solved(price)
            if found is None:
                return
            yield found
            low, high = (low, price) if fits(problem, found) else (price, high)

    def solved(self, price: float) -> np.ndarray | None:
        """``price``: error that a budget's whole limit is worth, for all budgets but the main one."""
        problem = self.problem
        main = max(problem.limits, key=lambda b: self._dense(b) / problem.limits[b])
        terms = [
            Term(link, self.costs[main][n], sum(
                (price / problem.limits[b] * self.costs[b][n] for b in problem.limits if b != main),
                np.zeros_like(self.costs[main][n]),
            ))
            for n, link in enumerate(self.links)
        ]  # fmt: skip
        terms += [Term((g,), np.zeros(len(c)), problem.errors[g][c]) for g, c in self.counts.items()]
        alone = sum(float(term.cost) for term in terms if not term.groups)
        room = problem.limits[main] - problem.costs.fixed.get(main, 0.0) - alone
        choices = {g: len(c) for g, c in self.counts.items()}
        found = least_error(choices, [t for t in terms if t.groups], self.order, room)
        return None if found is None else self._counts_of(found)

    def _dense(self, budget: str) -> float:
        return self.problem.costs.total(budget, np.zeros_like(self.removed))

    def _counts_of(self, found: dict[int, int]) -> np.ndarray:
        removed = self.removed.copy()
        for group, choice in found.items():
            removed[group] = self.counts[group][choice]
        return removed


def _near(allowed: np.ndarray, now: int, step: int, count: int) -> np.ndarray:
    """At most ``count`` + 1 allowed counts, ``step`` apart, around the one that is."""
    place = int(np.searchsorted(allowed, now))
    places = place + step * np.arange(-(len(allowed) // step + 1), len(allowed) // step + 2)
    places = places[(places >= 0) & (places < len(allowed))]
    nearest = np.sort(places[np.argsort(np.abs(places - place), kind="stable")[:count]])
    return allowed[nearest]


def _costs(
    problem: Problem, removed: np.ndarray, counts: dict[int, np.ndarray], budget: str, number: int,
    link: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    """[choices of link[0], ...]: what one layer costs, the groups that are not decided as they are."""
    shape = tuple(len(counts[g]) for g in link)
    found = np.empty(shape)
    trial = removed.copy()
    for place in np.ndindex(*shape):
        for group, choice in zip(link, place, strict=True):
            trial[group] = counts[group][choice]
        found[place] = problem.costs.layer(budget, number, trial)
    return found
