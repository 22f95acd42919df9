"""Parts of the results document about the shipped weights, their precision, and figures published elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from neuroprune.report.reader import Reader


@dataclass(frozen=True)
class Weights:
    """Bytes and distinct numbers of one layer's weights as they are stored, or of all of them (the first row);
    ``final_values``: with their scales applied; ``control``: plain 8 bits with one scale per tensor."""

    name: str
    weights: float | None
    dense_bytes: float | None
    cut_bytes: float | None
    final_bytes: float | None
    dense_distinct: float | None
    cut_distinct: float | None
    final_distinct: float | None
    final_values: float | None
    control_distinct: float | None


@dataclass(frozen=True)
class Published:
    """``val`` and ``test`` are this run's."""

    source: str
    what: str
    unit: str
    published: float | None
    val: float | None
    test: float | None


@dataclass(frozen=True)
class Quantized:
    """A layer, what the outputs lose where it alone is ``int8`` or has ``packed`` (4-bit) weights, and what it
    got."""

    layer: str
    weights: float | None
    int8: float | None
    packed: float | None
    precision: str


def read_weights(r: Reader) -> Weights:
    numbers = (
        "weights", "dense_bytes", "cut_bytes", "final_bytes",
        "dense_distinct", "cut_distinct", "final_distinct", "final_values", "control_distinct",
    )  # fmt: skip
    return Weights(r.text("name"), *(r.number(key) for key in numbers))


def read_published(r: Reader) -> Published:
    return Published(
        r.text("source"), r.text("what"), r.text("unit"), r.number("published"), r.number("val"), r.number("test")
    )


def read_quantized(r: Reader) -> Quantized:
    return Quantized(
        r.text("layer"), r.number("weights"), r.number("int8"), r.number("packed"), r.text("precision")
    )
