"""Loss and quality per epoch, one pair of charts for every step that trained the network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from neuroprune.report.figures import Chart, Trace, any_drawable, drawable, figure, line, titled
from neuroprune.report.results import Curve, Epoch, Results
from neuroprune.report.section import Section, Table, number_column, text_column
from neuroprune.report.wording import plain, plural


def section(results: Results) -> Section | None:
    runs = by_step([curve for curve in results.curves if curve.epochs])
    if not runs:
        return None
    views = [{"title": _title(run), "charts": _charts(i, run), "table": _table(run)} for i, run in enumerate(runs)]
    return Section("curves", "Training, epoch by epoch", "Training", "curves.html.j2", {"curves": views})


def by_step(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Curves that one step made one after the other (retraining in rounds) belong into one picture."""
    runs = itertools.groupby(curves, key=lambda curve: (curve.step or curve.label, curve.metric))
    return [list(run) for _, run in runs]


def _title(run: list[Curve]) -> str:
    first, last = (run[i].label or run[i].step for i in (0, -1))
    return first if len(run) == 1 else f"{first} to {last}"


def _charts(index: int, run: list[Curve]) -> list[Chart]:
    epochs = [epoch for curve in run for epoch in curve.epochs]
    metric = run[0].metric or "quality"
    wanted = (
        ("loss", "loss", [e.train_loss for e in epochs], [e.val_loss for e in epochs]),
        ("metric", metric, [e.train_metric for e in epochs], [e.val_metric for e in epochs]),
    )
    return [
        _chart(f"chart-curve-{index}-{key}", name, run, train, val)
        for key, name, train, val in wanted
        if any_drawable([*train, *val])
    ]


def _chart(id: str, name: str, run: list[Curve], train: list[float | None], val: list[float | None]) -> Chart:
    x = _positions(run)
    traces: list[Trace] = []
    if any_drawable(train):
        traces.append(line("training", x, train, "@contrast", line={"dash": "dot"}))
    if any_drawable(val):
        traces.append(line("validation", x, val, "@accent"))
    scale = (
        {"type": "log", "tickformat": "~g", "nticks": 6} if name == "loss" and _spread([*train, *val]) > 50 else {}
    )
    title = "epoch" if len(run) == 1 else "epoch, counted through"
    return Chart(
        id,
        figure(
            traces,
            x=titled(title, **_whole_ticks(x)),
            y=titled(name, **scale),
            showlegend=True,
            shapes=_borders(run),
        ),
        alt=_spoken(name, run, train, val),
        caption=_caption(name, run),
        height=270,
    )


def _caption(name: str, run: list[Curve]) -> str:
    text = f"{name.capitalize()} per epoch"
    if _borders(run):
        text += "; thin lines part the runs"
    if len(run) == 1 and run[0].kept is not None:
        text += f"; training could stop early, and the weights of epoch {plain(run[0].kept.epoch)} were kept"
    return text + ("." if text.count(";") else "")


def _positions(run: list[Curve]) -> list[float | None]:
    """The epochs' own numbers; counted through where several curves follow each other."""
    if len(run) == 1:
        return [epoch.epoch for epoch in run[0].epochs]
    return [float(i + 1) for i in range(sum(len(curve.epochs) for curve in run))]


def _borders(run: list[Curve]) -> list[dict[str, object]]:
    """A thin line between one curve and the next, where they have more than a single epoch."""
    ends = list(itertools.accumulate(len(curve.epochs) for curve in run))
    if ends[-1] == len(run):
        return []
    style = {"color": "@rule", "width": 1}
    return [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": end + 0.5, "x1": end + 0.5, "line": style}
        for end in ends[:-1]
    ]


def _whole_ticks(x: list[float | None]) -> dict[str, object]:
    """Epochs are whole; plotly would put ticks at 1.5 when there are few."""
    return {"dtick": 1} if len(x) <= 8 else {}


def _spread(values: list[float | None]) -> float:
    """Largest over smallest, 0 when a logarithm cannot be drawn."""
    known = [v for v in map(drawable, values) if v is not None]
    return max(known) / min(known) if known and min(known) > 0 else 0.0


def _spoken(name: str, run: list[Curve], train: list[float | None], val: list[float | None]) -> str:
    parts = [f"{name} over {plural(len(val), 'epoch')} of {_title(run)}"]
    for title, values in (("training", train), ("validation", val)):
        known = [v for v in values if v is not None]
        if known:
            parts.append(f"{title} from {plain(known[0])} to {plain(known[-1])}")
    return "; ".join(parts) + "."


def _table(run: list[Curve]) -> Table:
    metric = run[0].metric or "quality"
    titles = ("Epoch", "Training loss", "Validation loss", f"Training {metric}", f"Validation {metric}")
    numbers = tuple(number_column(title) for title in titles)
    several = len(run) > 1
    return Table(
        f"Figures per epoch: {_title(run)}",
        (text_column("Run"), *numbers) if several else numbers,
        [
            ((curve.label,) if several else ()) + _cells(epoch, epoch is curve.kept)
            for curve in run
            for epoch in curve.epochs
        ],
    )


def _cells(e: Epoch, kept: bool) -> tuple[str, ...]:
    figures = tuple(plain(v) for v in (e.train_loss, e.val_loss, e.train_metric, e.val_metric))
    return (f"{plain(e.epoch)} (kept)" if kept else plain(e.epoch), *figures)
