"""All candidates: what they cost against how good they are, with the non-dominated front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuroprune.report.figures import Chart, Trace, drawable, figure, label, titled
from neuroprune.report.results import Candidate, Results
from neuroprune.report.section import Section, Table, number_column, text_column
from neuroprune.report.wording import count, percent, plain, plural, shorten, size

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")


@dataclass(frozen=True)
class CostAxis:
    """One way to say what a candidate costs, least is best."""

    title: str
    spoken: str
    read: Callable[[Candidate], float | None]
    factor: float = 1.0


@dataclass(frozen=True)
class Point:
    candidate: Candidate
    cost: float
    metric: float


def section(results: Results) -> Section | None:
    if not results.candidates:
        return None
    axis = choose_axis(results.candidates)
    points = placed(results.candidates, axis)
    return Section(
        "pareto",
        "Candidates and the Pareto front",
        "Candidates",
        "pareto.html.j2",
        {
            "charts": [_chart(results, axis, points)] if points else [],
            "lead": _lead(results.candidates, axis, points),
            "table": _table(results),
        },
    )


def choose_axis(candidates: Sequence[Candidate]) -> CostAxis:
    """Measured latency where most candidates have it, else MACs, else parameters, else bytes."""
    most = max(c.macs or 0 for c in candidates)
    factor, prefix = (1e9, "G") if most >= 1e9 else (1e6, "M") if most >= 1e6 else (1.0, "")
    axes = (
        CostAxis("latency, ms", "latency", lambda c: c.latency_ms),
        CostAxis(f"{prefix}MACs per example", "MACs", lambda c: c.macs, factor),
        CostAxis("parameters", "parameters", lambda c: c.params),
        CostAxis("file size, bytes", "file size", lambda c: c.size_bytes),
    )
    known = [sum(drawable(axis.read(c)) is not None for c in candidates) for axis in axes]
    if 2 * known[0] > len(candidates):
        return axes[0]
    best = max(known[1:])
    return axes[1 + known[1:].index(best)]


def placed(candidates: Sequence[Candidate], axis: CostAxis) -> list[Point]:
    """The candidates that have both a cost and a metric."""
    found = []
    for candidate in candidates:
        cost, metric = drawable(axis.read(candidate)), drawable(candidate.metric)
        if cost is not None and metric is not None:
            found.append(Point(candidate, cost / axis.factor, metric))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """The non-dominated points, cheapest first: no other one is as cheap and as good, and better in one."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.metric)):
        if not best or point.metric > best[-1].metric:
            best.append(point)
    return best


def by_stage(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Accuracy before fine-tuning says nothing about accuracy after it, so each stage has its own front."""
    stages: dict[str, list[Point]] = {}
    for point in points:
        stages.setdefault(point.candidate.stage, []).append(point)
    return stages


def _chart(results: Results, axis: CostAxis, points: list[Point]) -> Chart:
    stages = by_stage(points)
    traces: list[Trace] = []
    for i, (stage, members) in enumerate(stages.items()):
        traces += _stage(stage or "candidates", members, _SYMBOLS[i % len(_SYMBOLS)], faint=i < len(stages) - 1)
    traces += _chosen([p for p in points if p.candidate.chosen])
    control = drawable(results.control.metric) if results.control else None
    return Chart(
        "chart-pareto",
        figure(
            traces,
            x=titled(axis.title, rangemode="tozero"),
            y=titled(results.metric),
            showlegend=True,
            **_dense_line(control),
        ),
        alt=_spoken(axis, stages),
        caption="Lines join the non-dominated candidates, one front per stage: nothing in that stage was both "
        f"cheaper in {axis.spoken} and at least as good.",
        height=420,
    )


def _stage(name: str, points: list[Point], symbol: str, *, faint: bool) -> list[Trace]:
    colour = "@contrast" if faint else "@accent"
    best = front(points)
    dominated = [p for p in points if p not in best]
    return [
        {
            **_markers(f"{name}: dominated", dominated, f"{symbol}-open", colour, 8),
            "visible": bool(dominated) or "legendonly",
            "showlegend": bool(dominated),
        },
        {
            **_markers(f"{name}: front", best, symbol, colour, 9),
            "mode": "lines+markers",
            "line": {"color": colour, "width": 2, "shape": "hv", "dash": "dot" if faint else "solid"},
        },
    ]


def _markers(name: str, points: Sequence[Point], symbol: str, colour: str, size_px: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(shorten(name, 36)),
        "x": [p.cost for p in points],
        "y": [p.metric for p in points],
        "text": [_hover(p.candidate) for p in points],
        "hoverinfo": "text",
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": size_px,
            "line": {"color": colour, "width": 1.5},
        },
    }


def _chosen(points: list[Point]) -> list[Trace]:
    if not points:
        return []
    ring: Trace = {**_markers("chosen", points, "circle-open", "@ink", 20), "showlegend": False}
    return [
        {
            **ring,
            "mode": "markers+text",
            "textposition": "bottom right",
            "text": ["chosen"] * len(points),
            "hoverinfo": "skip",
        }
    ]


def _dense_line(metric: float | None) -> dict[str, object]:
    """A dotted line at what the dense control reaches."""
    if metric is None:
        return {}
    shape = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": metric,
        "y1": metric,
        "line": {"color": "@dense", "width": 1.5, "dash": "dot"},
    }
    note = {
        "xref": "paper",
        "x": 0,
        "y": metric,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "text": f"dense control {plain(metric)}",
        "font": {"color": "@muted"},
    }
    return {"shapes": [shape], "annotations": [note]}


def _hover(c: Candidate) -> str:
    facts = [label(shorten(c.label, 60)), f"quality {plain(c.metric)}"]
    facts += [f"latency {plain(c.latency_ms, 3)} ms"] if c.latency_ms is not None else []
    facts += [f"MACs {count(c.macs)}", f"parameters {count(c.params)}"]
    return "<br>".join(facts)


def _lead(candidates: Sequence[Candidate], axis: CostAxis, points: list[Point]) -> str:
    missing = len(candidates) - len(points)
    text = f"{plural(len(candidates), 'candidate was', 'candidates were')} tried."
    if missing:
        has, stands = ("has", "stands") if missing == 1 else ("have", "stand")
        text += (
            f" {missing:,} of them {has} no figure for {axis.spoken} or quality and {stands} only in the table."
        )
    return text


def _spoken(axis: CostAxis, stages: dict[str, list[Point]]) -> str:
    parts = []
    for stage, points in stages.items():
        best = front(points)
        first, last = best[0], best[-1]
        parts.append(
            f"{stage or 'candidates'}: {plural(len(points), 'candidate')}, front from {plain(first.metric)} at "
            f"{plain(first.cost)} to {plain(last.metric)} at {plain(last.cost)}"
        )
    return f"Scatter plot of quality against {axis.title}. " + "; ".join(parts) + "."


def _table(results: Results) -> Table:
    columns = (
        text_column("Candidate"),
        text_column("Stage"),
        number_column("Ratio"),
        number_column("Quality"),
        number_column("Latency, ms"),
        number_column("MACs"),
        number_column("Parameters"),
        number_column("File size"),
    )
    rows = [
        (
            f"{c.label} (chosen)" if c.chosen else c.label,
            c.stage,
            percent(c.ratio),
            plain(c.metric),
            plain(c.latency_ms, 3),
            count(c.macs),
            count(c.params),
            size(c.size_bytes),
        )
        for c in results.candidates
    ]
    chosen = frozenset(i for i, c in enumerate(results.candidates) if c.chosen)
    return Table("All candidates", columns, rows, marked=chosen)
