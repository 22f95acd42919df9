"""How many units of each group stay, so that the error is least and every budget holds.

Minimise sum_g error_g(kept_g) subject to cost_b(kept) <= budget_b. The cost of a layer is a function of how much
of its inputs and outputs is left, so groups that share a layer are coupled: at given prices per budget every group
in turn takes its best count with the others as they are, until none changes (Lagrangian relaxation, Everett 1963);
the prices are found by bisection, what is left over at the end is spent greedily, one step at a time, and pairs of
groups exchange units as long as that gains (`swap.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.budget.problem import Costs
from neuroprune.budget.swap import swapped


@dataclass(frozen=True)
class Choice:
    """``removed[group]``: how many units go. ``costs``: of each budget; ``error``: the sum that was minimised."""

    removed: np.ndarray
    costs: Mapping[str, float]
    error: float


def choose_counts(
    errors: Sequence[np.ndarray], costs: Costs, budgets: Mapping[str, float], allowed: Sequence[Sequence[int]]
) -> Choice:
    """``errors[g][i]``: error after i units of group g are gone; ``allowed[g]``: values of i, ascending, from 0.

    Raises UserError when a budget lies below what the largest allowed removals give.
    """
    check_reachable(costs, budgets, allowed)
    solver = _Solver(errors, costs, list(budgets), [np.array(a) for a in allowed])
    removed = solver.within(np.array(list(budgets.values())))
    return Choice(removed, {n: costs.total(n, removed) for n in budgets}, solver.error(removed))


def check_reachable(costs: Costs, budgets: Mapping[str, float], allowed: Sequence[Sequence[int]]) -> None:
    """Raises UserError when a budget lies below what the largest allowed removals give."""
    most = np.array([a[-1] for a in allowed], dtype=np.int64)
    for name, limit in budgets.items():
        least = costs.total(name, most)
        if least > limit * (1 + 1e-9):
            raise UserError(
                f"the budget for {name} cannot be met by removing channels",
                value=f"{limit:.6g}, and the least is {least:.6g}",
                mend="raise it, lower the minimum of kept channels, or let more layers be cut",
            )


class _Solver:
    def __init__(
        self, errors: Sequence[np.ndarray], costs: Costs, budgets: list[str], allowed: Sequence[np.ndarray]
    ) -> None:
        self.errors, self.costs, self.budgets, self.allowed = errors, costs, budgets, allowed
        self.touching: list[list[int]] = [[] for _ in errors]
        for number, layer in enumerate(costs.layers):
            for group in {part.group for part in (*layer.rows, *layer.columns)}:
                self.touching[group].append(number)
        zero = np.zeros(len(errors), dtype=np.int64)
        self.scale = np.array([max(costs.total(b, zero), 1e-30) for b in budgets])

    def error(self, removed: np.ndarray) -> float:
        return float(sum(curve[i] for curve, i in zip(self.errors, removed, strict=True)))

    def totals(self, removed: np.ndarray) -> np.ndarray:
        return np.array([self.costs.total(b, removed) for b in self.budgets])

    def _own(self, group: int, removed: np.ndarray) -> np.ndarray:
        """[budgets]: cost of the layers that ``group`` has a part in, in shares of the dense total."""
        own = [sum(self.costs.layer(b, n, removed) for n in self.touching[group]) for b in self.budgets]
        shares: np.ndarray = np.array(own) / self.scale
        return shares

    def at(self, prices: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Counts in equilibrium at ``prices`` (error per dense total of each budget)."""
        removed = start.copy()
        for _ in range(20):
            before = removed.copy()
            for group, curve in enumerate(self.errors):
                removed[group] = self._best(group, curve, prices, removed)
            if (removed == before).all():
                break
        return removed

    def _best(self, group: int, curve: np.ndarray, prices: np.ndarray, removed: np.ndarray) -> int:
        trial = removed.copy()
        values = []
        for count in self.allowed[group]:
            trial[group] = count
            values.append(curve[count] + float(prices @ self._own(group, trial)))
        return int(self.allowed[group][int(np.argmin(values))])

    def within(self, limits: np.ndarray) -> np.ndarray:
        """Bisection on a common price, weighted towards the budget that is missed most; then the rest is spent."""
        weights = np.ones(len(self.budgets)) / len(self.budgets)
        best: np.ndarray | None = None
        for _ in range(1 if len(self.budgets) == 1 else 8):
            found = self._bisected(weights, limits)
            if best is None or self.error(found) < self.error(best):
                best = found
            pressure = self.totals(found) / limits
            weights = weights * pressure**4
            weights /= weights.sum()
        assert best is not None
        return swapped(self, self._spend(best, limits), limits)

    def _bisected(self, weights: np.ndarray, limits: np.ndarray) -> np.ndarray:
        low, high = 0.0, 1.0
        zero = np.zeros(len(self.errors), dtype=np.int64)
        most = np.array([a[-1] for a in self.allowed])
        while high < 1e12 and not self._fits(self.at(weights * high, zero), limits):
            high *= 8
        found = self.at(weights * high, zero)
        if not self._fits(found, limits):
            found = most
        for _ in range(40):
            middle = (low * high) ** 0.5 if low > 0 else high / 1e3
            trial = self.at(weights * middle, zero)
            if self._fits(trial, limits):
                high, found = middle, trial if self.error(trial) <= self.error(found) else found
            else:
                low = middle
            if low > 0 and high / low < 1.001:
                break
        return found

    def _fits(self, removed: np.ndarray, limits: np.ndarray) -> bool:
        return bool((self.totals(removed) <= limits * (1 + 1e-9)).all())

    def _spend(self, removed: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Give units back, best gain in error first, while every budget still holds."""
        while True:
            gains = []
            for group, curve in enumerate(self.errors):
                place = int(np.searchsorted(self.allowed[group], removed[group]))
                if place == 0:
                    continue
                trial = removed.copy()
                trial[group] = self.allowed[group][place - 1]
                gain = float(curve[removed[group]] - curve[trial[group]])
                if gain > 0 and self._fits(trial, limits):
                    gains.append((gain, trial))
            if not gains:
                return removed
            removed = max(gains, key=lambda pair: pair[0])[1]
