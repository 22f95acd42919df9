"""Stored precisions: the contract for each, their numbers by hand, and what half precision cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.precisions import PRECISIONS, store
from neuroprune.compression.ranges import RANGES
from neuroprune.compression.runtime import kernels_of
from neuroprune.export import EXPORTS
from neuroprune.testing import CalibrationContract, PrecisionContract

TOLERANCE = {"fp16": 2e-3, "fp16-weights": 2e-3, "bf16-weights": 2e-2, "int8-weights": 3e-2, "int4-weights": 0.3}

for _name in PRECISIONS.names():
    _class = f"Test_{_name.replace('-', '_')}"
    globals()[_class] = type(_class, (PrecisionContract,), {"name": _name, "tolerance": TOLERANCE.get(_name, 0.3)})
for _name in RANGES.names():
    _class = f"Test_range_{_name}"
    globals()[_class] = type(_class, (CalibrationContract,), {"name": _name})


def linear(folder: Path, weight: np.ndarray) -> Path:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False).eval()
    model.weight.data = torch.from_numpy(weight)
    EXPORTS.get("onnx").write(model, (torch.zeros(2, weight.shape[1]),), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("precision", ["fp16-weights", "bf16-weights", "int8-weights"])
def test_the_weights_that_are_computed_with(tmp_path: Path, precision: str) -> None:
    weight = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    store(linear(tmp_path, weight), tmp_path / "s.onnx", precision)
    (found,) = EXPORTS.get("onnx").load(tmp_path / "s.onnx").run([np.eye(20, dtype=np.float32)])
    scale = np.abs(weight).max(1, keepdims=True) / 127
    expected = {
        "fp16-weights": weight.astype(np.float16).astype(np.float32),
        "bf16-weights": torch.from_numpy(weight).bfloat16().float().numpy(),
        "int8-weights": np.rint(weight / scale) * scale,
    }[precision]
    assert np.allclose(found.T, expected, rtol=1e-6, atol=1e-7)


def test_sixteen_values_of_four_bits_each(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    weight[:, 0] = 0
    report = store(linear(tmp_path, weight), tmp_path / "s.onnx", "int4-weights")
    (found,) = EXPORTS.get("onnx").load(tmp_path / "s.onnx").run([np.eye(128, dtype=np.float32)])
    scale = np.abs(weight).max(1, keepdims=True) / 127
    assert len(np.unique(np.round(found.T / scale, 3))) <= 16
    even = np.abs(weight).max(1, keepdims=True) / 7.5  # sixteen even steps per channel
    grid = (np.clip(np.floor(weight / even), -8, 7) + 0.5) * even
    error, other = (float(np.square(values - weight).mean()) for values in (found.T, grid))
    assert error < 0.9 * other
    assert report.target_bytes < 0.75 * weight.size


def test_restored_weights_are_constants_when_it_runs(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    source = linear(tmp_path, weight)
    before = kernels_of(source)
    for precision in PRECISIONS.names():
        if precision != "fp16":
            store(source, tmp_path / "s.onnx", precision)
            assert kernels_of(tmp_path / "s.onnx") == before, precision


def test_half_precision_ends_at_65504(tmp_path: Path) -> None:
    weight = np.full((12, 20), 7e4, np.float32)
    source = linear(tmp_path, weight)
    for precision in ("fp16", "fp16-weights"):
        with pytest.raises(UserError, match="65504"):
            store(source, tmp_path / "s.onnx", precision)
    store(source, tmp_path / "s.onnx", "bf16-weights")


def test_small_constants_and_integers_stay(tmp_path: Path) -> None:
    source = linear(tmp_path, np.ones((3, 4), np.float32))
    store(source, tmp_path / "s.onnx", "fp16-weights")
    held = {a.dtype for a in map(numpy_helper.to_array, onnx.load(tmp_path / "s.onnx").graph.initializer)}
    assert held == {np.dtype(np.float32)}


def test_an_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown precision"):
        store(linear(tmp_path, np.ones((3, 4), np.float32)), tmp_path / "s.onnx", "fp8")
