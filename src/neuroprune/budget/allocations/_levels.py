"""What allocations with one parameter share: the least level at which every budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from neuroprune.budget.problem import Problem
from neuroprune.budget.solve import check_reachable

#: level in 0..1 -> [groups]: how many units should go; never less at a higher level, none at 0, all at 1
Wanted = Callable[[float], np.ndarray]
#: halvings of the level: as many as its mantissa has bits
HALVINGS = 53


def least_level(problem: Problem, wanted: Wanted) -> np.ndarray:
    """[groups]: removed units at the least level that holds every budget, found by bisection.

    What a level asks for becomes the largest allowed count that is not more, so that counts never fall as it
    rises. Raises UserError where no level holds a budget.
    """
    check_reachable(problem.costs, problem.limits, problem.allowed)
    allowed = [np.array(counts) for counts in problem.allowed]

    def counts(level: float) -> np.ndarray:
        asked = wanted(level)
        return np.array(
            [a[np.searchsorted(a, w * (1 + 1e-9), side="right") - 1] for a, w in zip(allowed, asked, strict=True)],
            dtype=np.int64,
        )

    low, high = 0.0, 1.0
    if fits(problem, counts(low)):
        return counts(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(problem, counts(middle)) else (middle, high)
    return counts(high)


def fits(problem: Problem, removed: np.ndarray) -> bool:
    return all(problem.costs.total(b, removed) <= limit * (1 + 1e-9) for b, limit in problem.limits.items())


def under_one_threshold(scores: Sequence[np.ndarray]) -> Wanted:
    """All units of all groups in one order, lowest score first; a level is the share of them that goes."""
    owner = np.repeat(np.arange(len(scores)), [values.size for values in scores])
    pooled = np.concatenate(scores) if scores else np.zeros(0)
    owner = owner[np.argsort(pooled, kind="stable")]
    return lambda level: np.bincount(owner[: int(level * owner.size + 1e-9)], minlength=len(scores))
