"""The page of a sensitivity analysis: a line per group, and the groups from the most sensitive on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroprune.base import files
from neuroprune.report.build import page
from neuroprune.report.figures import Chart, Trace, any_drawable, figure, line, titled
from neuroprune.report.section import Column, Section, Table, code_column, number_column, short_column
from neuroprune.report.wording import percent, plain, plural

#: the most sensitive groups have a colour and a pattern each; the rest lies behind them, thin
LAYERED: tuple[tuple[str, str], ...] = (
    ("@contrast", "solid"), ("@accent", "solid"), ("@good", "dash"), ("@model", "dot"), ("@ink", "dashdot"),
)  # fmt: skip
#: ratios that the table has a column for
SHOWN = 5

Row = Mapping[str, Any]


def build_sensitivity(document: Mapping[str, Any], out: Path, *, ranked: Sequence[str], title: str) -> None:
    """Write the page of ``document`` (`Sensitivity.to_json`) to ``out``, whole or not at all.

    ``ranked``: names of its groups, the most sensitive first. All text is taken for hostile and escaped. Raises
    UserError when ``out`` cannot be written.
    """
    curves = {curve["group"]: curve for curve in document["curves"]}
    rows = [curves[name] for name in ranked]
    sections = [_curves(document, rows), _groups(document, rows)]
    files.write_text(out, page(title, _facts(document), sections, kind="sensitivity analysis"))


def _facts(document: Mapping[str, Any]) -> list[str]:
    options = document["options"]
    fitted = "consumers refitted" if options.get("recover") else "no refit"
    known = f"dense {document['metric']} {_figure(document['dense'], document)}" if document["metric"] else ""
    facts = (
        plural(document["examples"], "example"),
        f"units by {options.get('criterion', 'rank')}",
        fitted,
        known,
    )
    return [*(fact for fact in facts if fact), "every figure measured"]


def _figure(value: float | None, document: Mapping[str, Any]) -> str:
    return f"{plain(value)} {document['unit']}".strip()


def _curves(document: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    metric = document["metric"]
    counts = f"{plural(len(rows), 'group')}, {plural(len(document['options']['ratios']), 'ratio')}"
    lead = (
        f"{counts}: one group at a time is cut, everything else stays whole. The {min(len(rows), len(LAYERED))} "
        "most sensitive have a colour; point at any other line for its name."
    )
    wanted = [
        ("metric", f"{metric} ({document['unit']})" if document["unit"] else metric, document["dense"], {}),
        ("divergence", "error of the outputs", None, {"type": "log", "tickformat": "~g", "nticks": 6}),
        ("agreement", "same prediction as dense (%)", 100.0, {}),
    ]
    charts = [
        _chart(key, name, start, axis, rows)
        for key, name, start, axis in wanted
        if any_drawable(point[key] for row in rows for point in row["points"])
    ]
    return Section("curves", "What each group is worth", "Curves", "sensitivity.html.j2",
                   {"lead": lead, "charts": charts, "table": None})  # fmt: skip


def _chart(key: str, name: str, start: float | None, axis: Mapping[str, Any], rows: Sequence[Row]) -> Chart:
    """The most sensitive are drawn last, above the others, and stand first in the legend."""
    traces = [_line(row, key, start, place) for place, row in enumerate(rows)]
    return Chart(
        f"chart-{key}",
        figure(
            traces[::-1],
            x=titled("units of the group removed (%)", range=[0, 100]),
            y=titled(name, **axis),
            legend={"traceorder": "reversed"},
        ),
        alt=f"{name} against the share of one group's units that is removed, for {plural(len(rows), 'group')}; "
        f"the most sensitive is {rows[0]['group']}.",
        caption=f"{name[:1].upper()}{name[1:]}, measured, against the share of one group's units that is gone.",
        height=400,
    )


def _line(row: Row, key: str, start: float | None, place: int) -> Trace:
    dense = [] if start is None else [(0.0, start)]
    points = [*dense, *((100 * p["removed"] / row["units"], _above_zero(p[key], key)) for p in row["points"])]
    x, y = [x for x, _ in points], [y for _, y in points]
    if place < len(LAYERED):
        colour, dash = LAYERED[place]
        return line(row["group"], x, y, colour, line={"dash": dash})
    return line(row["group"], x, y, "@dense", line={"width": 1}, mode="lines", opacity=0.55, showlegend=False)


def _above_zero(value: float | None, key: str) -> float | None:
    """An error of nothing has no place on a logarithmic axis."""
    return None if key == "divergence" and not value else value


def _groups(document: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    name = f"{document['metric']} left" if document["metric"] else "error of the outputs"
    lead = f"The most sensitive first, by the mean over all ratios; the columns of ratios show the {name}."
    return Section("groups", "Groups, the most sensitive first", "Groups", "sensitivity.html.j2",
                   {"lead": lead, "charts": [], "table": _table(document, rows)})  # fmt: skip


def _table(document: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    key = "metric" if document["metric"] else "divergence"
    ratios = document["options"]["ratios"]
    places = sorted({round(i * (len(ratios) - 1) / max(SHOWN - 1, 1)) for i in range(SHOWN)})
    harm, limit = _harm(document)
    columns: list[Column] = [
        code_column("Group"), short_column("Kind"), number_column("Units"),
        *(number_column(percent(ratios[place], 0)) for place in places),
        number_column(limit), short_column("Refitted"), short_column("Known by"),
    ]  # fmt: skip
    cells = [
        (
            row["group"], row["kind"], str(row["units"]),
            *(plain(row["points"][place][key]) if place < len(row["points"]) else "" for place in places),
            _can_lose(row, harm), "yes" if row["refitted"] else "no", "measured",
        )
        for row in rows
    ]  # fmt: skip
    return Table("Groups, the most sensitive first", tuple(columns), cells)


def _harm(document: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any]], bool], str]:
    """Is a point too much, and the name of the column of what is not."""
    if document["metric"] and document["unit"] == "%":
        dense = document["dense"]
        return lambda p: p["metric"] is None or p["metric"] < dense - 1, "Can go at 1 point less"
    return lambda p: p["divergence"] is None or p["divergence"] > 0.01, "Can go at 1 % error"


def _can_lose(row: Row, harm: Callable[[Mapping[str, Any]], bool]) -> str:
    """The largest measured share that goes before the first point that is too much."""
    share = 0.0
    for point in row["points"]:
        if harm(point):
            break
        share = point["removed"] / row["units"]
    return percent(share, 0)
