"""What became of each layer's weights: bytes after cutting and in the shipped file, and distinct values."""

from __future__ import annotations

from collections.abc import Sequence

from neuroprune.report.bars import bars, end_labels
from neuroprune.report.deployed import Weights
from neuroprune.report.figures import Chart, figure, reversed_rows, titled
from neuroprune.report.results import Results
from neuroprune.report.section import Section, Table, code_column, number_column
from neuroprune.report.wording import count, fewer, listed, quantity, undrawn

_DRAWN = 120


def section(results: Results) -> Section | None:
    if len(results.weights) < 2:
        return None
    whole, *layers = results.weights
    lead = _lead(whole) + undrawn(len(layers), min(len(layers), _DRAWN))
    values = {"charts": [_chart(layers[:_DRAWN])], "lead": lead, "table": _table(results.weights)}
    return Section("weights", "What is left of every layer's weights", "Weights", "layers.html.j2", values)


def _lead(whole: Weights) -> str:
    dense, cut, final = (quantity(v, "B") for v in (whole.dense_bytes, whole.cut_bytes, whole.final_bytes))
    times = fewer(whole.dense_distinct, whole.final_distinct)
    said = f" ({times} fewer)" if times else ""
    return (
        f"Weights of {dense} are {cut} after pruning and {final} in the file that is shipped. "
        f"{count(whole.dense_distinct)} distinct numbers are {count(whole.final_distinct)}{said}, counted in "
        f"each layer as they are stored; plain 8 bits with one scale per tensor would leave "
        f"{count(whole.control_distinct)}. With their scales applied they are {count(whole.final_values)} values."
    )


def _share(part: float | None, whole: float | None) -> float:
    return 100 * (part or 0.0) / whole if whole else 0.0


def _chart(layers: Sequence[Weights]) -> Chart:
    rows = [float(i) for i in range(len(layers))]
    cut = [_share(layer.cut_bytes, layer.dense_bytes) for layer in layers]
    final = [_share(layer.final_bytes, layer.dense_bytes) for layer in layers]
    texts = [quantity(layer.final_bytes, "B") for layer in layers]
    return Chart(
        "chart-weights",
        figure(
            [
                bars("dense", [100.0] * len(layers), rows, "@track", 0.62),
                bars("after pruning", cut, rows, "@contrast", 0.62),
                bars("in the shipped file", final, rows, "@accent", 0.62),
                end_labels([100.0] * len(layers), rows, texts),
            ],
            x=titled(
                "bytes of the dense layer, %", range=[0, max(100.0, *cut, *final)], tickvals=[0, 25, 50, 75, 100]
            ),
            y=reversed_rows([layer.name for layer in layers]),
            barmode="overlay",
            margin={"l": 12, "r": 84, "t": 8, "b": 34},
            showlegend=True,
        ),
        alt="Bytes of weights per layer, dense, after pruning, shipped: "
        + listed([f"{layer.name} {text}" for layer, text in zip(layers, texts, strict=True)]),
        caption="Bytes of every layer's weights, of the dense ones: after pruning, and in the shipped file.",
        height=86 + 24 * len(layers),
        tall=len(layers) > 40,
    )


def _table(rows: Sequence[Weights]) -> Table:
    titles = (
        *("Weights", "Bytes dense", "pruned", "shipped"),
        *("Distinct numbers dense", "pruned", "shipped", "plain int8", "shipped, scaled"),
    )
    cells = [
        (
            row.name,
            count(row.weights),
            *(quantity(value, "B") for value in (row.dense_bytes, row.cut_bytes, row.final_bytes)),
            *(count(value) for value in (row.dense_distinct, row.cut_distinct, row.final_distinct)),
            *(count(value) for value in (row.control_distinct, row.final_values)),
        )
        for row in rows
    ]
    columns = (code_column("Layer"), *(number_column(title) for title in titles))
    return Table("Bytes and distinct numbers of the weights", columns, cells, limit=1000)
