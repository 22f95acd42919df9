"""What every calibration method and every stored precision must keep to; third parties subclass the contracts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.precisions import store
from neuroprune.compression.ranges import BINS, RANGES, Histogram, quantized
from neuroprune.export import EXPORTS


def _histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    held = values[values != 0]
    counts = np.histogram(held, BINS, (low, high))[0] if high > low else np.zeros(BINS)
    return Histogram(low, high, counts.astype(np.float64), float(values.size - held.size))


class CalibrationContract:
    """Subclass it and set ``name``."""

    name: str

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("shape", ["normal", "relu", "negative"])
    def test_most_values_come_out_close(self, shape: str, symmetric: bool) -> None:
        values = np.random.default_rng(0).normal(size=20_000)
        values = {"normal": values, "relu": np.maximum(values, 0), "negative": -np.abs(values)}[shape]
        low, high = RANGES.get(self.name)(_histogram(values), symmetric)
        assert values.min() - 1e-9 <= low or symmetric
        assert low <= high
        gap = quantized(values, low, high, symmetric) - values
        assert (gap**2).mean() < 1e-3 * values.var()  # a range four times too wide has more

    @pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
    def test_a_constant_is_its_own_range(self, value: float) -> None:
        assert RANGES.get(self.name)(_histogram(np.full(9, value)), False) == (value, value)

    def test_the_same_values_give_the_same_range(self) -> None:
        histogram = _histogram(np.random.default_rng(1).normal(size=500))
        rule = RANGES.get(self.name)
        assert rule(histogram, False) == rule(histogram, False)


class PrecisionContract:
    """Subclass it and set ``name``; ``tolerance``: of the outputs, relative to the largest."""

    name: str
    tolerance: float = 0.3

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU())
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 40)).eval()
        EXPORTS.get("onnx").write(model, (self._x()[:1],), tmp_path / "m.onnx", metadata={"own": "kept"})
        return tmp_path / "m.onnx"

    @staticmethod
    def _x() -> torch.Tensor:
        return torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(1))

    def test_the_file_is_smaller_and_computes_nearly_the_same(self, source: Path, tmp_path: Path) -> None:
        report = store(source, tmp_path / "s.onnx", self.name)
        onnx, x = EXPORTS.get("onnx"), self._x().numpy()
        assert report.target_bytes == (tmp_path / "s.onnx").stat().st_size < source.stat().st_size
        expected, session = onnx.load(source).run([x])[0], onnx.load(tmp_path / "s.onnx")
        for batch in (1, 5):
            (found,) = session.run([x[:batch]])
            assert found.dtype == np.float32
            assert np.abs(found - expected[:batch]).max() <= self.tolerance * np.abs(expected).max()
        assert session.metadata["own"] == "kept"
        assert session.metadata["precision"] == self.name

    def test_the_same_file_every_time(self, source: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            store(source, tmp_path / name, self.name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_weights_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        model = nn.Linear(80, 40)
        nn.init.constant_(model.weight, torch.nan)
        EXPORTS.get("onnx").write(model.eval(), (torch.zeros(2, 80),), tmp_path / "m.onnx")
        with pytest.raises(UserError, match="NaN or infinity"):
            store(tmp_path / "m.onnx", tmp_path / "s.onnx", self.name)
        assert not (tmp_path / "s.onnx").exists()
