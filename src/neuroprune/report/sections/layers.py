"""What is left of every layer: kept units over all units, in the order of the network."""

from __future__ import annotations

from collections.abc import Sequence

from neuroprune.report.bars import bars, end_labels
from neuroprune.report.figures import Chart, figure, reversed_rows, titled
from neuroprune.report.results import Layer, Results
from neuroprune.report.section import Section, Table, code_column, number_column
from neuroprune.report.wording import count, listed, percent, plural, undrawn

#: more rows than this make no picture any more; the table below the chart has the rest
_DRAWN = 240


def section(results: Results) -> Section | None:
    if not results.layers:
        return None
    drawn = [layer for layer in results.layers if layer.kept is not None][:_DRAWN]
    return Section(
        "layers",
        "What is left of every layer",
        "Layers",
        "layers.html.j2",
        {
            "charts": [_chart(drawn)] if drawn else [],
            "lead": _lead(results.layers, len(drawn)),
            "table": _table(results.layers),
        },
    )


def _lead(layers: Sequence[Layer], drawn: int) -> str:
    cut = sum(layer.kept is not None and layer.kept < 1 for layer in layers)
    text = f"{cut:,} of {plural(len(layers), 'layer')} lost units."
    before, after = (_total(layers, key) for key in ("params_before", "params_after"))
    if before and after is not None:
        text += f" Their parameters went from {count(before)} to {count(after)}."
    return text + undrawn(len(layers), drawn)


def _total(layers: Sequence[Layer], key: str) -> float | None:
    values = [getattr(layer, key) for layer in layers]
    return None if any(value is None for value in values) else sum(values)


def _chart(layers: Sequence[Layer]) -> Chart:
    kept = [100 * (layer.kept or 0.0) for layer in layers]
    rows = [float(i) for i in range(len(layers))]
    texts = [f"{count(layer.after)} / {count(layer.before)}" for layer in layers]
    most = max(100.0, *kept)
    return Chart(
        "chart-layers",
        figure(
            [
                bars("all units", [100.0] * len(layers), rows, "@track", 0.62),
                bars("kept", kept, rows, "@accent", 0.62),
                end_labels([max(100.0, k) for k in kept], rows, texts),
            ],
            x=titled("units kept, %", range=[0, most], tickvals=[0, 25, 50, 75, 100]),
            y=reversed_rows([layer.name.removesuffix(".weight") for layer in layers]),
            barmode="overlay",
            margin={"l": 12, "r": 76, "t": 8, "b": 34},  # room for the counts, which stand beyond the axis
            showlegend=False,
        ),
        alt="Units kept per layer: " + listed([_spoken(layer) for layer in layers]),
        caption="Kept units over all units of each layer, in the order of the network.",
        height=62 + 24 * len(layers),
        tall=len(layers) > 40,
    )


def _spoken(layer: Layer) -> str:
    return f"{layer.name} {count(layer.after)} of {count(layer.before)}"


def _table(layers: Sequence[Layer]) -> Table:
    columns = (
        code_column("Layer"),
        number_column("Units before"),
        number_column("Units after"),
        number_column("Kept"),
        number_column("Parameters before"),
        number_column("Parameters after"),
    )
    rows = [
        (
            layer.name,
            count(layer.before),
            count(layer.after),
            percent(layer.kept),
            count(layer.params_before),
            count(layer.params_after),
        )
        for layer in layers
    ]
    return Table("All layers", columns, rows, limit=1000)
