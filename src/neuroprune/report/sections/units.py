"""For every unit why it went or stayed: score, threshold, binding constraint, group by group.

The figures travel as one compact JSON block (columns per group, texts once each); the page draws a group's plot
and table only when it is opened, so thousands of units cost nothing until somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from neuroprune.report.figures import drawable
from neuroprune.report.results import Results, Unit
from neuroprune.report.section import Section
from neuroprune.report.wording import percent, plain, plural

#: units carried in the page; beyond it every group keeps those nearest to its threshold, and the page says so
CARRIED = 100_000


@dataclass(frozen=True)
class Group:
    """The units that were chosen among each other. ``carried`` are those whose figures the page holds."""

    name: str
    units: tuple[Unit, ...]
    carried: tuple[Unit, ...]

    @property
    def kept(self) -> int:
        return sum(unit.kept for unit in self.units)

    @property
    def left_out(self) -> int:
        return len(self.units) - len(self.carried)

    @property
    def threshold(self) -> str:
        seen = {unit.threshold for unit in self.units if unit.threshold is not None}
        if not seen:
            return "—"
        return plain(seen.pop()) if len(seen) == 1 else f"{plain(min(seen))} to {plain(max(seen))}"

    @property
    def reasons(self) -> list[tuple[str, str, int]]:
        """(went or stayed, why, how many), the most frequent first."""
        counts = Counter((unit.kept, unit.reason, unit.constraint) for unit in self.units).most_common(6)
        return [
            ("stayed" if kept else "went", _why(reason, constraint), n) for (kept, reason, constraint), n in counts
        ]

    @property
    def more_reasons(self) -> int:
        return len({(unit.kept, unit.reason, unit.constraint) for unit in self.units}) - len(self.reasons)


def section(results: Results) -> Section | None:
    if not results.units:
        return None
    groups = grouped(results.units)
    views = [
        {
            "name": g.name,
            "kept": g.kept,
            "size": len(g.units),
            "share": round(100 * g.kept / len(g.units), 1),
            "threshold": g.threshold,
            "reasons": g.reasons,
            "more_reasons": g.more_reasons,
            "left_out": g.left_out,
        }
        for g in groups
    ]
    values = {"groups": views, "data": columns(groups), "lead": _lead(results.units, groups)}
    return Section("units", "Why each unit went or stayed", "Units", "units.html.j2", values)


def grouped(units: Sequence[Unit], carried: int = CARRIED) -> list[Group]:
    """Units by group in the order of their first appearance, each with its fair share of ``carried``."""
    members: dict[str, list[Unit]] = {}
    for unit in units:
        members.setdefault(unit.group, []).append(unit)
    share = min(1.0, carried / len(units))
    return [Group(name, tuple(us), _nearest(us, max(1, int(len(us) * share)))) for name, us in members.items()]


def _nearest(units: Sequence[Unit], n: int) -> tuple[Unit, ...]:
    """The ``n`` units closest to their threshold, in their old order: those where the decision was a close one."""
    if n >= len(units):
        return tuple(units)
    order = sorted(range(len(units)), key=lambda i: _distance(units[i]))
    return tuple(units[i] for i in sorted(order[:n]))


def _distance(unit: Unit) -> float:
    score, threshold = drawable(unit.score), drawable(unit.threshold)
    return abs(score - threshold) if score is not None and threshold is not None else float("inf")


def columns(groups: Sequence[Group]) -> dict[str, object]:
    """The JSON block of the page: per group one column per field; reasons and constraints point into texts."""
    texts: dict[str, int] = {}

    def index(text: str) -> int:
        return texts.setdefault(text, len(texts))

    columned = [
        {
            "name": g.name,
            "size": len(g.units),
            "unit": [u.unit for u in g.carried],
            "score": [_brief(u.score) for u in g.carried],
            "threshold": _column([_brief(u.threshold) for u in g.carried]),
            "kept": [int(u.kept) for u in g.carried],
            "reason": _column([index(u.reason) for u in g.carried]),
            "constraint": _column([index(u.constraint) for u in g.carried]),
        }
        for g in groups
    ]
    return {"groups": columned, "texts": list(texts)}


def _column(values: Sequence[float | str | None]) -> object:
    """One value stands for a column in which all are equal."""
    return values[0] if values and all(value == values[0] for value in values) else list(values)


def _brief(value: float | None) -> float | str | None:
    """Six significant digits are enough to read and to plot; what JSON cannot hold becomes text."""
    if value is None:
        return None
    return float(f"{value:.6g}") if drawable(value) is not None else plain(value)


def _why(reason: str, constraint: str) -> str:
    parts = [part for part in (reason, f"bound by {constraint}" if constraint else "") if part]
    return "; ".join(parts) or "no reason given"


def _lead(units: Sequence[Unit], groups: Sequence[Group]) -> str:
    gone = sum(not unit.kept for unit in units)
    text = (
        f"{gone:,} of {plural(len(units), 'unit')} went ({percent(gone / len(units))}), "
        f"in {plural(len(groups), 'group')}. Units of one group are cut together, in every layer they run through."
    )
    left_out = sum(group.left_out for group in groups)
    if left_out:
        text += (
            f" The page carries the {len(units) - left_out:,} units nearest to their thresholds; "
            f"{left_out:,} are left out and stand in results.json."
        )
    return text
