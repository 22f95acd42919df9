"""The latency benchmark: networks of the published sizes, cuts of the promised share, tables as recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # at the end, as in test_benchmarks.py

import latency
from measuring import latency_tables, shapes
from measuring.records import Records

from neuroprune.graph import cost


@pytest.mark.parametrize(
    ("network", "size", "params", "macs"),
    [
        ("vgg16-three", 224, 138_365_992, 15_470_264_320),  # torchvision's vgg16_bn
        ("resnet18", 224, 11_689_512, 1_814_073_344),  # torchvision's resnet18
        ("resnet18", 32, 11_173_962, 555_422_720),  # kuangliu/pytorch-cifar
        ("vgg16", 32, 14_728_266, 313_201_664),  # kuangliu/pytorch-cifar
    ],
)
def test_networks_have_the_published_sizes(network: str, size: int, params: int, macs: int) -> None:
    found = cost(shapes.shape(network, size), torch.zeros(1, 3, size, size))
    assert (found.params, found.macs) == (params, macs)


def test_a_share_of_the_filters_is_at_least_that_and_in_multiples() -> None:
    model, x = shapes.shape("resnet18", 32), torch.randn(1, 3, 32, 32)
    small, plan = latency.without(model, x, 0.8)
    left = [m.out_channels for m in small.modules() if isinstance(m, torch.nn.Conv2d)]
    assert 0.15 < sum(left) / latency.filters(model) <= 0.2
    assert all(n % latency.MULTIPLE == 0 for n in left)
    assert {d.group: len(d.kept) for d in plan.decisions}["features.0"] == left[0]


def row(ms: float, **more: Any) -> dict[str, Any]:
    return {"p50_ms": ms, "p90_ms": 2 * ms, "times_faster": 8.0 / ms, "bytes": 9, "runs": 3, **more}


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Records:
    monkeypatch.setattr(latency_tables, "RESULTS", tmp_path)
    return Records(tmp_path / "latency.jsonl", latency_tables.KEY)


COMMON = {"status": "done", "cpu": "a cpu", "versions": {"commit": "abc", "onnxruntime": "1.2"}}


def test_the_table_of_shapes(records: Records) -> None:
    assert latency_tables.shapes() == latency_tables.trained() == "Not measured yet."
    half = {"removed": 0.5, "ideal": 4.0, "macs": 1, "fp32": row(4.0, of_ideal=0.5, table_ms=3.0),
            "int8": row(2.0, of_ideal=1.0, table_ms=2.0)}  # fmt: skip
    dense = {"removed": 0.0, "ideal": 1.0, "macs": 4, "fp32": row(8.0, of_ideal=1.0, table_ms=8.0),
             "int8": row(4.0, of_ideal=2.0, table_ms=2.0)}  # fmt: skip
    records.put({"cell": "shapes", "network": "n@8", "rows": {"50%": half, "dense": dense}, **COMMON})
    records.put({"cell": "shapes", "network": "m@8", **COMMON, "status": "timeout"})
    lines = latency_tables.shapes().splitlines()
    assert lines[2] == "| n@8 | 0.0 % | 1.0x | fp32 | 8 ms | 16 ms | 1.0x | 100 % | 1.00 |"
    assert lines[5] == "| n@8 | 50.0 % | 4.0x | int8 | 2 ms | 4 ms | 4.0x |  | 1.00 |"
    assert lines[-1] == "Measured on one core (a cpu), ONNX Runtime 1.2; neuroprune at abc."
    assert len(lines) == 8


def test_the_table_of_trained_networks(records: Records) -> None:
    figures = {"accuracy": 90.0, "agreement": 95.0, "lost": 1, "won": 0}
    rows = {"dense fp32": row(8.0, **(figures | {"accuracy": 91.0})), "dense int8": row(4.0, **figures),
            "pruned fp32": row(3.0, **figures), "pruned int8": row(1.6, **figures)}  # fmt: skip
    key = {"cell": "trained", "network": "n@8", "share": 0.4, "precision": "fp32", "recover": "distill"}
    records.put({**key, "rows": rows, "macs_ratio": 3.0, "cpu_s": 99.6, "blocks_gone": 2, **COMMON})
    last = latency_tables.trained().splitlines()[5]
    assert "pruned int8 | 1.6 ms | 5.00x | 2.50x | 90.00 | 1.00 | 95.00 |" in last
    assert latency_tables.trained().count("0.4 in fp32") == 1
