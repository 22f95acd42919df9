"""Lottery tickets over sparsity, beside the dense network and the controls that had the same training."""

from __future__ import annotations

from collections.abc import Sequence

from neuroprune.report.figures import Chart, Trace, any_drawable, drawables, figure, titled
from neuroprune.report.results import Results, TicketRow
from neuroprune.report.section import Section, Table, number_column, short_column, text_column
from neuroprune.report.wording import percent, plain, plural

#: kind -> what it is called, the colour of its line, its dash
_KINDS = {
    "ticket": ("ticket", "@accent", "solid"),
    "reinit": ("other initial weights", "@contrast", "dot"),
    "random_mask": ("random mask", "@contrast", "dash"),
    "dense": ("dense", "@dense", "solid"),
}


def section(results: Results) -> Section | None:
    rows = results.tickets
    if not rows:
        return None
    values = {"charts": _charts(results), "lead": _lead(results), "table": _table(results)}
    return Section("lottery", "Lottery tickets, by sparsity", "Tickets", "lottery.html.j2", values)


def _lead(results: Results) -> str:
    tickets = [row for row in results.tickets if row.kind == "ticket"]
    chosen = next((row for row in tickets if row.chosen), None)
    text = f"{plural(len(tickets), 'ticket')}, each trained from the rewound state under its mask"
    if chosen is None:
        return f"{text}."
    return (
        f"{text}. Chosen on the validation split: round {plain(chosen.round)}, {percent(chosen.sparsity)} of the "
        f"masked values off, {results.metric} {plain(chosen.metric)}."
    )


def _charts(results: Results) -> list[Chart]:
    rows = results.tickets
    if not any_drawable([row.metric for row in rows]):
        return []
    traces = [_trace(kind, [r for r in rows if r.kind == kind]) for kind in ("ticket", "reinit", "random_mask")]
    traces = [trace for trace in [*traces, _dense(rows)] if trace]
    return [
        Chart(
            "chart-lottery",
            figure(traces, x=titled("sparsity, %"), y=titled(results.metric), showlegend=True),
            alt=f"{results.metric} over sparsity of {plural(len(rows), 'training')}.",
            caption=f"{results.metric.capitalize()} on validation over sparsity",
        )
    ]


def _trace(kind: str, rows: Sequence[TicketRow]) -> Trace:
    """Empty where there is nothing of this kind."""
    name, colour, dash = _KINDS[kind]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": drawables(_percent(row) for row in rows),
        "y": drawables(row.metric for row in rows),
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 6},
    } if rows else {}  # fmt: skip


def _dense(rows: Sequence[TicketRow]) -> Trace:
    """The first dense training, as a level over the whole width."""
    first = next((row for row in rows if row.kind == "dense"), None)
    if first is None:
        return {}
    name, colour, dash = _KINDS["dense"]
    right = max((value for value in drawables(map(_percent, rows)) if value is not None), default=0.0)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [0.0, right],
        "y": drawables([first.metric] * 2),
        "line": {"color": colour, "width": 2, "dash": dash},
    }


def _percent(row: TicketRow) -> float | None:
    return None if row.sparsity is None else 100 * row.sparsity


def _table(results: Results) -> Table:
    columns = (
        text_column("Network"), number_column("Round"), number_column("Sparsity"),
        number_column(f"{results.metric.capitalize()} on validation"), short_column("Chosen"),
    )  # fmt: skip
    rows = [
        (
            _KINDS[row.kind][0] if row.kind in _KINDS else row.kind,
            plain(row.round),
            percent(row.sparsity),
            plain(row.metric),
            "yes" if row.chosen else "",
        )
        for row in results.tickets
    ]
    return Table("All tickets and controls", columns, rows)
