"""How each layer bears int8, and what precision it got."""

from __future__ import annotations

from collections import Counter

from neuroprune.report.deployed import Quantized
from neuroprune.report.results import Results
from neuroprune.report.section import Section, Table, code_column, number_column, text_column
from neuroprune.report.wording import count, percent, plural

_COLUMNS = (
    code_column("Layer"),
    number_column("Weights"),
    number_column("Error, alone in int8"),
    number_column("Error, 4-bit weights"),
    text_column("Precision"),
)


def section(results: Results) -> Section | None:
    if not results.quantized:
        return None
    rows = [
        (q.layer, count(q.weights), percent(q.int8, 2), percent(q.packed, 2), q.precision)
        for q in results.quantized
    ]
    return Section(
        "quantized",
        "How each layer bears int8",
        "Precision",
        "quantized.html.j2",
        {"lead": _lead(results.quantized), "table": Table("Layers, the worst first", _COLUMNS, rows)},
    )


def _lead(layers: tuple[Quantized, ...]) -> str:
    kinds = ", ".join(f"{n:,} {name}" for name, n in Counter(layer.precision for layer in layers).items())
    return (
        f"{plural(len(layers), 'layer')}: {kinds}. The error is that of the network's outputs with this layer "
        "alone in int8: the root of the mean squared difference from fp32 over the standard deviation of fp32's "
        "outputs."
    )
