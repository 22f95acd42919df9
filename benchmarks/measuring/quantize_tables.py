"""Tables of docs/quantize.md out of the records, and the ways that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table

FILE, KEY = RESULTS / "quantize.jsonl", ("network", "way")
NETWORKS = ("resnet20", "ds-cnn", "resnet56")
#: words -> how the file is made, and its options
WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "minmax": ("int8", {}),
    "percentile": ("int8", {"method": "percentile"}),
    "entropy": ("int8", {"method": "entropy"}),
    "mse": ("int8", {"method": "mse"}),
    "auto": ("int8", {"method": "auto"}),
    "minmax, equalised": ("int8", {"equalize": True}),
    "minmax, biases corrected": ("int8", {"correct_bias": True}),
    "minmax, symmetric activations": ("int8", {"activations": "symmetric"}),
    "one scale per tensor": ("int8", {"weights": "tensor"}),
    "one scale per tensor, equalised": ("int8", {"weights": "tensor", "equalize": True}),
    "one scale per tensor, biases corrected": ("int8", {"weights": "tensor", "correct_bias": True}),
    "4-bit weights": ("int8", {"weight_bits": 4}),
    "4-bit weights, biases corrected": ("int8", {"weight_bits": 4, "correct_bias": True}),
    "mixed, at most 0.5 points off": ("mixed", {"max_drop": 0.5}),
    "mixed, 4 bits within 1.5 points": ("mixed", {"max_drop": 1.5, "pack": True}),
    "fp16": ("stored", {"precision": "fp16"}),
    "fp16-weights": ("stored", {"precision": "fp16-weights"}),
    "bf16-weights": ("stored", {"precision": "bf16-weights"}),
    "int8-weights": ("stored", {"precision": "int8-weights"}),
    "int4-weights": ("stored", {"precision": "int4-weights"}),
}
#: for the largest network
FEW = (
    "fp32",
    "minmax",
    "auto",
    "4-bit weights",
    "4-bit weights, biases corrected",
    "mixed, at most 0.5 points off",
)
#: ``bits`` of the grid in training (None: none), of the file's weights; ``learned``: ranges from the training
QAT: Mapping[str, dict[str, Any]] = {
    "control, int8": {"bits": None, "weight_bits": 8},
    "control, 4-bit weights": {"bits": None, "weight_bits": 4},
    "qat, int8, calibrated again": {"bits": 8, "weight_bits": 8},
    "qat, int8, learned ranges": {"bits": 8, "weight_bits": 8, "learned": True},
    "qat, 4 bits, calibrated again": {"bits": 4, "weight_bits": 4},
    "qat, 4 bits, learned ranges": {"bits": 4, "weight_bits": 4, "learned": True},
    "qat, 16 values per tensor": {"bits": 8, "weight_bits": 4, "clusters": 16},
}
_COLUMNS = ("way", "accuracy, %", "same prediction as fp32, %", "bytes", "of fp32", "CPU time, ms", "fp32, ms")


def of_network(network: str, ways: Sequence[str], records: Sequence[Record]) -> str:
    """One row per way that was measured, in the order of ``ways``."""
    by_way = {r["way"]: r for r in records if r["network"] == network}
    found = [by_way[way] for way in ways if way in by_way]
    if not found:
        return NOTHING
    return table(list(_COLUMNS), [_row(record) for record in found])


def _row(r: Record) -> list[str]:
    return [
        r["way"],
        f"{r['accuracy']:.2f}",
        f"{r['agreement']:.2f}",
        f"{r['bytes']:,}",
        f"{r['bytes'] / r['fp32_bytes']:.3f}",
        f"{r['latency_ms']:.3g}",
        f"{r['fp32_latency_ms']:.3g}",
    ]


def _post(network: str) -> str:
    return of_network(network, ["fp32", *WAYS], Records(FILE, KEY).all())


def _trained() -> str:
    return of_network("resnet20", ["fp32", "minmax", "4-bit weights", *QAT], Records(FILE, KEY).all())


TABLES = {
    "int8-resnet20": lambda: _post("resnet20"),
    "int8-resnet56": lambda: _post("resnet56"),
    "int8-ds-cnn": lambda: _post("ds-cnn"),
    "int8-trained": _trained,
}
