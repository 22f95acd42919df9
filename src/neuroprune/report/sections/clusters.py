"""How many distinct weights each layer had and has, and the network as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from neuroprune.report.bars import bars, end_labels
from neuroprune.report.clusterings import ClusteredLayer, Clustering
from neuroprune.report.figures import Chart, figure, reversed_rows, titled
from neuroprune.report.results import Results
from neuroprune.report.section import Section, Table, code_column, number_column
from neuroprune.report.wording import count, fewer, listed, plain, plural, undrawn

#: more rows than this make no picture any more; the table below the chart has the rest
_DRAWN = 240


def section(results: Results) -> Section | None:
    if not results.clusterings:
        return None
    last = results.clusterings[-1]
    drawn = [layer for layer in last.layers if (layer.before or 0) > 0 and (layer.after or 0) > 0][:_DRAWN]
    return Section(
        "clusters",
        "Distinct weights of every layer",
        "Distinct weights",
        "layers.html.j2",
        {
            "charts": [_chart(drawn)] if drawn else [],
            "lead": _lead(last, len(drawn)),
            "table": _table(last),
        },
    )


def _lead(last: Clustering, drawn: int) -> str:
    scope = f"k-means per {last.scope}" if last.scope else "k-means"
    asked = f"{plain(last.k)} values" if last.k is not None else f"a distortion of {plain(last.distortion)}"
    text = (
        f"{scope}, {asked}: {count(last.entries)} weights of {plural(len(last.layers), 'layer')} had "
        f"{count(last.before)} distinct values and have {count(last.after)}"
    )
    times = fewer(last.before, last.after)
    text += f", {times} fewer" if times else ""
    return text + ", where a value that several layers hold counts once." + undrawn(len(last.layers), drawn)


def _chart(layers: Sequence[ClusteredLayer]) -> Chart:
    before, after = [layer.before or 1.0 for layer in layers], [layer.after or 1.0 for layer in layers]
    rows = [float(i) for i in range(len(layers))]
    texts = [f"{count(layer.before)} to {count(layer.after)}" for layer in layers]
    spoken = listed([f"{layer.name} {text}" for layer, text in zip(layers, texts, strict=True)])
    return Chart(
        "chart-clusters",
        figure(
            [
                bars("before", before, rows, "@track", 0.62),
                bars("after", after, rows, "@accent", 0.62),
                end_labels([max(pair) for pair in zip(before, after, strict=True)], rows, texts),
            ],
            x=titled("distinct values, logarithmic", type="log"),
            y=reversed_rows([layer.name for layer in layers]),
            barmode="overlay",
            margin={"l": 12, "r": 110, "t": 8, "b": 34},  # room for the counts, which stand beyond the bars
            showlegend=False,
        ),
        alt=f"Distinct weights per layer, before and after: {spoken}",
        caption="Distinct weights of each layer, after over before, in the order of the network.",
        height=62 + 24 * len(layers),
        tall=len(layers) > 40,
    )


def _table(last: Clustering) -> Table:
    columns = (
        code_column("Layer"),
        number_column("Weights"),
        number_column("Distinct before"),
        number_column("Distinct after"),
        number_column("Fewer"),
        number_column("Squared change, of the squares"),
    )
    rows = [
        (
            layer.name,
            count(layer.entries),
            count(layer.before),
            count(layer.after),
            fewer(layer.before, layer.after),
            plain(layer.error, 3),
        )
        for layer in last.layers
    ]
    return Table("Distinct weights of all layers", columns, rows, limit=1000)
