"""Loss and quality per epoch, one pair of charts for every time the network was trained."""

from __future__ import annotations

from neuroprune.report.figures import Chart, Trace, any_drawable, drawable, figure, line, titled
from neuroprune.report.results import Curve, Epoch, Results
from neuroprune.report.section import Section, Table, number_column
from neuroprune.report.wording import plain, plural


def section(results: Results) -> Section | None:
    curves = [curve for curve in results.curves if curve.epochs]
    if not curves:
        return None
    views = [
        {"title": curve.label or curve.step, "charts": _charts(i, curve), "table": _table(curve)}
        for i, curve in enumerate(curves)
    ]
    return Section("curves", "Training, epoch by epoch", "Training", "curves.html.j2", {"curves": views})


def _charts(index: int, curve: Curve) -> list[Chart]:
    metric = curve.metric or "quality"
    wanted = (
        (
            f"chart-curve-{index}-loss",
            "loss",
            [e.train_loss for e in curve.epochs],
            [e.val_loss for e in curve.epochs],
        ),
        (
            f"chart-curve-{index}-metric",
            metric,
            [e.train_metric for e in curve.epochs],
            [e.val_metric for e in curve.epochs],
        ),
    )
    return [_chart(id, name, curve, train, val) for id, name, train, val in wanted if any_drawable([*train, *val])]


def _chart(id: str, name: str, curve: Curve, train: list[float | None], val: list[float | None]) -> Chart:
    x = [epoch.epoch for epoch in curve.epochs]
    traces: list[Trace] = []
    if any_drawable(train):
        traces.append(line("training", x, train, "@contrast", line={"dash": "dot"}))
    if any_drawable(val):
        traces.append(line("validation", x, val, "@accent"))
    y = titled(name, **({"type": "log"} if name == "loss" and _spread([*train, *val]) > 50 else {}))
    return Chart(
        id,
        figure(traces, x=titled("epoch", **_whole_ticks(x)), y=y, showlegend=True),
        alt=_spoken(name, curve, train, val),
        caption=f"{name.capitalize()} per epoch",
        height=270,
    )


def _whole_ticks(x: list[float | None]) -> dict[str, object]:
    """Epochs are whole; plotly would put ticks at 1.5 when there are few."""
    return {"dtick": 1} if len(x) <= 8 else {}


def _spread(values: list[float | None]) -> float:
    """Largest over smallest, 0 when a logarithm cannot be drawn."""
    known = [v for v in map(drawable, values) if v is not None]
    return max(known) / min(known) if known and min(known) > 0 else 0.0


def _spoken(name: str, curve: Curve, train: list[float | None], val: list[float | None]) -> str:
    parts = [f"{name} over {plural(len(curve.epochs), 'epoch')} of {curve.label or curve.step}"]
    for title, values in (("training", train), ("validation", val)):
        known = [v for v in values if v is not None]
        if known:
            parts.append(f"{title} from {plain(known[0])} to {plain(known[-1])}")
    return "; ".join(parts) + "."


def _table(curve: Curve) -> Table:
    metric = curve.metric or "quality"
    columns = ("Epoch", "Training loss", "Validation loss", f"Training {metric}", f"Validation {metric}")
    return Table(
        f"Figures per epoch: {curve.label or curve.step}",
        tuple(number_column(title) for title in columns),
        [_cells(epoch) for epoch in curve.epochs],
    )


def _cells(e: Epoch) -> tuple[str, ...]:
    return tuple(plain(v) for v in (e.epoch, e.train_loss, e.val_loss, e.train_metric, e.val_metric))
