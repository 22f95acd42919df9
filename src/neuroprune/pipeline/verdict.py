"""Does a network keep its promises? Limits against figures; which variant is best; which limit binds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.base.nouns import Budget


@dataclass(frozen=True)
class Figures:
    """What a network costs and how good it is: one row of every comparison. ``None``: not known."""

    params: float | None
    macs: float | None
    size: float | None  # bytes of the file
    latency: float | None  # ms of CPU time, median
    metric: float | None

    @classmethod
    def of_variant(cls, variant: Mapping[str, Any]) -> Figures:
        """From an entry of ``variants`` in results.json."""
        latency = variant["latency"]
        ms = latency["cpu_p50_ms"] if latency else None
        return cls(variant["params"], variant["macs"], variant["size_bytes"], ms, variant["metric"])


def misses(figures: Figures, dense: Figures, budget: Budget, max_drop: float | None) -> dict[str, float]:
    """By how much each broken limit is exceeded, as a share of the limit; empty where all hold.

    ``max_drop`` is in the units of the metric (points where that is a percentage), and its excess is counted
    in multiples of ``max_drop`` (of 1 where that is 0).
    """
    out: dict[str, float] = {}
    for limit in budget.limits:
        value, reference = getattr(figures, limit.kind, None), getattr(dense, limit.kind, None)
        if value is None or (limit.relative and reference is None):
            continue
        allowed = limit.absolute(reference or 0.0)
        if value > allowed:
            out[limit.kind] = value / allowed - 1
    if max_drop is not None and figures.metric is not None and dense.metric is not None:
        over = dense.metric - figures.metric - max_drop
        if over > 1e-9:  # 98.0 - 97.0 must count as 1.0
            out["max_drop"] = over / (max_drop or 1.0)
    return out


def best(rows: Sequence[tuple[Figures, dict[str, float]]]) -> int:
    """Index of the row that breaks its limits least; among equals the fastest, then the smallest."""
    inf = float("inf")

    def order(i: int) -> tuple[float, float, float, int]:
        figures, broken = rows[i]
        latency = inf if figures.latency is None else figures.latency
        return sum(broken.values()), latency, inf if figures.size is None else figures.size, i

    return min(range(len(rows)), key=order)


def binding(broken: Mapping[str, float]) -> str | None:
    """The limit that is exceeded most, or None."""
    return max(broken, key=lambda name: broken[name]) if broken else None
