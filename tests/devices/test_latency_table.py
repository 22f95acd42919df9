"""Latency tables against the device's own formula at every width; files of one layer against PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from counting_device import PER_MAC, CountingDevice, counting, macs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from neuroprune.base.cache import cache_folder
from neuroprune.budget.observed import calls
from neuroprune.devices import latency_table
from neuroprune.devices.latency_table import OUTPUTS_AT_ONCE, LatencyTable, Surface, Wanted, monotone
from neuroprune.devices.single_layer import LayerShape, write_layer

CONV = {"kernel": (3, 3), "stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1)}
PLAIN = LayerShape("Conv", 40, 24, (6, 6), **CONV)
LINEAR = LayerShape("Linear", 40, 24, (5,))


@pytest.fixture
def device() -> Iterator[CountingDevice]:
    with counting() as found:
        yield found


def surface(device: CountingDevice, folder: Path, shape: LayerShape, **varies: bool) -> Surface:
    wanted = Wanted(shape, **varies)
    return LatencyTable(device, cache=folder).surfaces([wanted])[wanted]


#: (layer, input): every way in which widths and shapes enter
LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(12, 8, 3, padding=1), (12, 7, 6)),
    (nn.Conv2d(12, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (12, 9, 8)),
    (nn.Conv2d(12, 8, 4, padding="same", dilation=2), (12, 9, 8)),
    (nn.Conv2d(12, 12, 3, padding=1, groups=12), (12, 6, 6)),
    (nn.Conv2d(12, 24, 3, padding=1, groups=4), (12, 6, 6)),
    (nn.Conv1d(12, 8, 5), (12, 20)),
    (nn.Conv3d(4, 8, 2), (4, 5, 5, 5)),
    (nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1), (12, 5, 5)),
    (nn.ConvTranspose2d(12, 24, 3, stride=2, groups=4), (12, 5, 5)),
    (nn.Linear(12, 8), (12,)),
    (nn.Linear(12, 8), (5, 12)),
    (nn.Linear(12, 8), (2, 3, 12)),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("layer", "size"), LAYERS, ids=lambda v: str(v) if isinstance(v, nn.Module) else "")
def test_the_file_of_a_layer_has_its_shapes_and_operations(
    layer: nn.Module, size: tuple[int, ...], precision: Any, tmp_path: Path
) -> None:
    x = torch.randn(3, *size)
    (call,) = calls(layer, x)
    shape = call.shape(3, precision)
    for copies in (1, 3):
        path = tmp_path / f"{copies}.onnx"
        write_layer(path, shape, copies)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"x": shape.example()})
        assert outputs[0].shape == tuple(layer(x).shape)
        share = 0.25 if shape.integer else 1.0
        assert macs(path, [x.shape]) == pytest.approx(share * copies * 3 * call.macs)
    assert shape.weights == call.values
    assert shape.narrowed(*shape.sizes) == shape


def narrow(layer: Any, first: int, second: int) -> Any:
    """The same module with so many units along the dimensions of its weight, built anew."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    if layer.groups == 1:
        groups, own, other = 1, first, second
    else:
        groups = first
        own, other = first * layer.weight.shape[0] // layer.groups, first * second
    sides = (own, other) if transposed else (other, own)
    return type(layer)(*sides, layer.kernel_size, layer.stride, layer.padding, groups=groups)


@pytest.mark.parametrize(("layer", "size"), [LAYERS[0], LAYERS[3], LAYERS[4], LAYERS[8]], ids=lambda v: "")
def test_a_narrowed_layer_is_the_one_that_a_cut_leaves(layer: Any, size: tuple[int, ...]) -> None:
    shape = calls(layer, torch.zeros(1, *size))[0].shape(1, "fp32")
    for first in range(1, shape.sizes[0] + 1):
        for second in range(1, shape.sizes[1] + 1):
            small = narrow(layer, first, second)
            wanted = calls(small, torch.zeros(1, small.in_channels, *size[1:]))[0].shape(1, "fp32")
            assert shape.narrowed(first, second) == replace(wanted, output_padding=shape.output_padding)


def test_between_the_grid_a_surface_is_what_the_device_would_say(device: CountingDevice, tmp_path: Path) -> None:
    """Multiply-accumulates are bilinear in the widths; outputs of convolutions count in blocks."""
    for shape in (PLAIN, LINEAR):
        found = surface(device, tmp_path, shape)
        rows, columns = (tuple(round(s * n) for s in axis) for axis, n in zip(
            (found.rows, found.columns), shape.sizes, strict=True))  # fmt: skip
        positions = math.prod(shape.space) * (9 if shape.operator == "Conv" else 1)
        for i in range(1, 41):
            for j in range(1, 25):
                block = OUTPUTS_AT_ONCE if shape.operator == "Conv" else 1
                whole = min(math.ceil(i / block) * block, 40)
                expected = PER_MAC * positions * max(whole, rows[0]) * max(j, columns[0])
                assert found.at(i / 40, j / 24) == pytest.approx(expected), (shape, i, j)
        assert found.at(0.0, 0.5) == found.at(0.5, 0.0) == 0.0


def test_an_axis_that_does_not_vary_has_one_width(device: CountingDevice, tmp_path: Path) -> None:
    found = surface(device, tmp_path, PLAIN, columns=False)
    assert found.columns == (1.0,)
    assert found.at(1.0, 1.0) == pytest.approx(PER_MAC * 36 * 9 * 40 * 24)
    depthwise = LayerShape("Conv", 32, 32, (6, 6), groups=32, **CONV)
    assert surface(device, tmp_path, depthwise).at(0.5, 1.0) == pytest.approx(PER_MAC * 36 * 9 * 16)


def test_measured_once_and_kept_per_device_threads_and_precision(device: CountingDevice, tmp_path: Path) -> None:
    first = surface(device, tmp_path, PLAIN)
    used = device.calls
    assert used > 0
    assert surface(device, tmp_path, PLAIN) == first
    assert device.calls == used
    changes: list[Any] = [
        lambda: LatencyTable(device, cache=tmp_path, threads=2).surfaces([Wanted(PLAIN)]),
        lambda: surface(device, tmp_path, replace(PLAIN, precision="int8")),
        lambda: surface(device, tmp_path, replace(PLAIN, stride=(2, 2))),
        lambda: surface(device, tmp_path, PLAIN, rows=False),
        lambda: (setattr(device, "version", "2"), surface(device, tmp_path, PLAIN)),
    ]
    for change in changes:
        before = device.calls
        change()
        assert device.calls > before
    assert len(list((tmp_path / "latency").iterdir())) == 1 + len(changes)


def damage(path: Path, how: str) -> None:
    held = json.loads(path.read_text())
    if how == "truncated":
        path.write_text(path.read_text()[:50])
        return
    if how == "not numbers":
        held["ms"] = [["fast"] * len(row) for row in held["ms"]]
    elif how == "negative":
        held["ms"][0][0] = -1.0
    elif how == "short":
        held["ms"].pop()
    elif how == "of another":
        held["of"]["layer"]["outputs"] = 99
    path.write_text("[]" if how == "a list" else json.dumps(held))


@pytest.mark.parametrize("how", ["truncated", "not numbers", "negative", "short", "of another", "a list"])
def test_a_damaged_entry_is_measured_anew_and_replaced(device: CountingDevice, tmp_path: Path, how: str) -> None:
    first = surface(device, tmp_path, PLAIN)
    (path,) = (tmp_path / "latency").iterdir()
    good = path.read_text()
    damage(path, how)
    before = device.calls
    assert surface(device, tmp_path, PLAIN) == first
    assert device.calls > before
    assert path.read_text() == good


def test_broken_off_work_goes_on_where_it_was(
    device: CountingDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [Wanted(PLAIN), Wanted(LINEAR), Wanted(replace(LINEAR, space=(7,)))]
    real, done = device.measure, []

    def breaks(*args: Any, **kwargs: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(device, "measure", breaks)
    with pytest.raises(KeyboardInterrupt):
        LatencyTable(device, cache=tmp_path).surfaces(wanted)
    monkeypatch.setattr(device, "measure", real)
    before = device.calls
    assert set(LatencyTable(device, cache=tmp_path).surfaces(wanted)) == set(wanted)
    third = device.calls - before
    assert third == 2 * math.prod(map(len, wanted[2].grid()))


class Heard:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def start(self, title: str, total: int) -> None:
        self.said.append((title, total))

    def advance(self, note: str = "") -> None:
        self.said.append("one")

    def finish(self, summary: str) -> None: ...

    def close(self) -> None: ...


def test_progress_counts_what_is_measured(device: CountingDevice, tmp_path: Path) -> None:
    heard = Heard()
    for _ in range(2):
        LatencyTable(device, cache=tmp_path, progress=heard).surfaces([Wanted(PLAIN), Wanted(LINEAR)])
    assert heard.said == [("latency table", 2), "one", "one"]


def test_large_layers_are_timed_alone_and_in_parts(
    device: CountingDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_table, "LARGE", 100)
    monkeypatch.setattr(latency_table, "_AT_ONCE", 4 * 500)
    found = surface(device, tmp_path, LINEAR)
    assert device.calls < 2 * math.prod(map(len, Wanted(LINEAR).grid()))
    overhead = 0.01
    assert found.at(1.0, 1.0) == pytest.approx(overhead + PER_MAC * 5 * 40 * 24)


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 9)))
def test_monotone_surfaces(ms: np.ndarray) -> None:
    found = monotone(ms)
    assert (np.diff(found, axis=0) >= 0).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert ms.min() - 1e-12 <= found.min()
    assert found.max() <= ms.max() + 1e-12
    assert np.allclose(monotone(found), found)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NEUROPRUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "neuroprune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "neuroprune"
    monkeypatch.setenv("NEUROPRUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder(tmp_path / "chosen") == tmp_path / "chosen"
