"""The tables of quantised networks on records written out here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from measuring.quantize_tables import QAT, WAYS, of_network

RECORD = {"network": "n", "accuracy": 91.5, "agreement": 99.123, "bytes": 2500, "fp32_bytes": 10_000,
          "latency_ms": 0.2211, "fp32_latency_ms": 0.4734}  # fmt: skip


def test_one_row_per_way_in_order_and_none_of_other_networks() -> None:
    records = [RECORD | {"way": "mse"}, RECORD | {"way": "minmax"}, RECORD | {"way": "mse", "network": "other"}]
    lines = of_network("n", ["minmax", "percentile", "mse"], records).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| minmax | 91.50 | 99.12 | 2,500 | 0.250 | 0.221 | 0.473 |"
    assert lines[3].startswith("| mse ")
    assert of_network("m", ["minmax"], records) == "Not measured yet."


def test_ways_have_names_of_their_own() -> None:
    assert not set(WAYS) & set(QAT)
