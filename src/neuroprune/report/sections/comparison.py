"""Before, after, change and target of every figure, each with how it is known."""

from __future__ import annotations

from neuroprune.report.results import Results, Row
from neuroprune.report.section import Section
from neuroprune.report.wording import plain, quantity, typeset


def section(results: Results) -> Section | None:
    if not results.table and not results.notes:
        return None
    return Section(
        "comparison",
        "Before and after",
        "Before & after",
        "comparison.html.j2",
        {"rows": [_view(row) for row in results.table], "notes": results.notes},
    )


def _view(row: Row) -> dict[str, object]:
    unavailable = row.kind == "unavailable"
    return {
        "metric": row.metric,
        "detail": row.detail,
        "kind": row.kind,
        "before": quantity(row.before, row.unit),
        "after": quantity(row.after, row.unit),
        "exact": f"{plain(row.before, 12)} → {plain(row.after, 12)} {row.unit}".strip(),
        "share": None if unavailable else _share(row),
        "change": typeset(row.change),
        "target": typeset(row.target),
        "met": row.met,
    }


def _share(row: Row) -> float | None:
    """What is left, in percent, for the bar under the figure; only where it says something at a glance."""
    if row.before is None or row.after is None or row.unit == "%":
        return None
    if not 0 < row.before < float("inf") or not 0 <= row.after <= row.before:
        return None
    return round(100 * row.after / row.before, 1)
