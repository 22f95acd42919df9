"""What one layer takes on a device, as a function of its widths: measured on a grid once, interpolated between.

A file of one layer pays besides for the call, the change to the runtime's own layout and back: microseconds, as
much as a small layer itself. So a file with three copies of the layer on one input runs beside it, and half of the
difference is the layer. Between the grid's widths a convolution's time is near to a + b*outputs + c*inputs +
d*outputs*inputs, which bilinear interpolation follows exactly.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune.base.cache import cache_folder
from neuroprune.base.errors import UserError
from neuroprune.base.files import read_json, write_json
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.devices._base import CHANNEL_MULTIPLE, Device
from neuroprune.devices.single_layer import LayerShape, write_layer

#: changes when what is measured, or how, changes
VERSION = 1
#: kept widths on the grid, in shares of the dense layer
SHARES = (1 / 16, 1 / 5, 1 / 2, 1.0)
#: outputs of a convolution that its kernels compute at once on x86 with AVX-512; a part of it costs as the whole
#: (with AVX2 it is 8 in fp32: there a count between is taken for a little dearer than it is)
OUTPUTS_AT_ONCE = 16
COPIES = 3
SECONDS_PER_FILE = 0.06
#: layers with more values than this are timed alone: the rest is nothing beside them, and copies take memory
LARGE = 4_000_000
#: bytes of weights that lie in memory at once
_AT_ONCE = 2**29


@dataclass(frozen=True)
class Surface:
    """Milliseconds per call, ``ms[i][j]`` at ``rows[i]``, ``columns[j]``: shares of the weight's dimensions 0, 1.

    ``step``: share of dimension 0 that is computed at once (0: any)."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    ms: tuple[tuple[float, ...], ...]
    step: float = 0.0

    def at(self, rows: float, columns: float) -> float:
        """Bilinear; below the smallest width of the grid as there (kernels have a least width); 0 without any."""
        if rows <= 0 or columns <= 0:
            return 0.0
        whole = math.ceil(rows / self.step - 1e-9) * self.step if self.step else rows
        i, u = _place(self.rows, whole)
        j, v = _place(self.columns, columns)
        low, high = self.ms[i], self.ms[min(i + 1, len(self.ms) - 1)]
        k = min(j + 1, len(low) - 1)
        return (1 - u) * ((1 - v) * low[j] + v * low[k]) + u * ((1 - v) * high[j] + v * high[k])


def _place(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    """The cell that ``value`` lies in and how far along it, 0 to 1."""
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 1)
    if value <= axis[i] or i == len(axis) - 1:
        return i, 0.0
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])


def monotone(ms: np.ndarray) -> np.ndarray:
    """The mean of the least surface above ``ms`` [rows, columns] and the greatest below that rise with width.

    Noise must not make a wider layer look faster; where ``ms`` rises everywhere it stays as it is.
    """
    above = np.maximum.accumulate(np.maximum.accumulate(ms, 0), 1)
    below = np.minimum.accumulate(np.minimum.accumulate(ms[::-1, ::-1], 0), 1)[::-1, ::-1]
    return np.asarray((above + below) / 2)


@dataclass(frozen=True)
class Wanted:
    """A layer, and which dimensions of its weight may shrink (the grid has one width for one that does not)."""

    shape: LayerShape
    rows: bool = True
    columns: bool = True

    def grid(self) -> tuple[list[int], list[int]]:
        """Steps of ``LayerShape.sizes`` to measure, ascending."""
        (first, second), shape = self.shape.sizes, self.shape
        multiple = CHANNEL_MULTIPLE[shape.precision]
        per_group = (shape.outputs if shape.operator != "ConvTranspose" else shape.inputs) // shape.groups
        step = self.at_once or (multiple if shape.groups == 1 else math.ceil(multiple / per_group))
        return _levels(first, step, self.rows), _levels(second, multiple, self.columns)

    @property
    def at_once(self) -> int:
        """Outputs that are computed at once; 0 where that is not known."""
        return OUTPUTS_AT_ONCE if self.shape.operator == "Conv" and self.shape.groups == 1 else 0


def _levels(size: int, multiple: int, varies: bool) -> list[int]:
    if not varies:
        return [size]
    found = {min(size, multiple * max(1, round(size * share / multiple))) for share in SHARES[:-1]}
    return sorted(found | {size})


class LatencyTable:
    """Surfaces of layers on ``device``; kept below ``cache`` (see ``cache_folder``), one file each, by content."""

    def __init__(
        self, device: Device, *, threads: int = 1, cache: Path | None = None, progress: Progress | None = None
    ) -> None:
        self.device, self.threads = device, threads
        self.folder = cache_folder(cache) / "latency"
        self.progress = progress or SilentProgress()

    def surfaces(self, wanted: Sequence[Wanted]) -> dict[Wanted, Surface]:
        """Of each distinct layer: from the cache, else measured now and written at once, so that work goes on
        where it was broken off. Raises UserError when the device refuses a file."""
        kept = {one: self._kept(one) for one in wanted}
        found = {one: surface for one, surface in kept.items() if surface is not None}
        if len(found) < len(kept):
            self.progress.start("latency table", len(kept) - len(found))
        for one in [one for one in kept if one not in found]:
            found[one] = self._measured(one)
            write_json(self._path(one), {"of": self._key(one), **asdict(found[one])})
            self.progress.advance()
        return found

    def _key(self, wanted: Wanted) -> dict[str, Any]:
        key = {"layer": asdict(wanted.shape), "grid": wanted.grid(), "facts": self.device.facts(),
               "device": self.device.name, "threads": self.threads, "version": VERSION}  # fmt: skip
        return dict(json.loads(json.dumps(key)))

    def _path(self, wanted: Wanted) -> Path:
        digest = hashlib.sha256(json.dumps(self._key(wanted), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"

    def _kept(self, wanted: Wanted) -> Surface | None:
        """None where there is none, or a file that is not what was written: it is measured anew."""
        if not self._path(wanted).is_file():
            return None
        try:
            held = read_json(self._path(wanted))
            ours = held["of"] == self._key(wanted)
            surface = Surface(
                tuple(map(float, held["rows"])),
                tuple(map(float, held["columns"])),
                tuple(tuple(map(float, row)) for row in held["ms"]),
                float(held["step"]),
            )
        except (UserError, KeyError, TypeError, ValueError):
            return None
        fits = {len(surface.rows)} == {len(surface.ms)} and {len(surface.columns)} == set(map(len, surface.ms))
        usable = all(math.isfinite(v) and v >= 0 for row in surface.ms for v in row)
        return surface if ours and fits and usable else None

    def _measured(self, wanted: Wanted) -> Surface:
        first, second = wanted.grid()
        points = [(i, j) for i in range(len(first)) for j in range(len(second))]
        ms = np.zeros((len(first), len(second)))
        for part in _parts(points, [wanted.shape.narrowed(first[i], second[j]) for i, j in points]):
            for (i, j), value in self._timed(part).items():
                ms[i, j] = value
        rows, columns = wanted.shape.sizes
        return Surface(
            tuple(n / rows for n in first),
            tuple(n / columns for n in second),
            tuple(map(tuple, monotone(ms).tolist())),
            wanted.at_once / rows,
        )

    def _timed(self, part: dict[tuple[int, int], LayerShape]) -> dict[tuple[int, int], float]:
        """Milliseconds of each layer, all interleaved."""
        with tempfile.TemporaryDirectory() as folder:
            files, inputs = {}, {}
            for (i, j), shape in part.items():
                for copies in (1,) if shape.weights > LARGE else (1, COPIES):
                    name = f"{i},{j},{copies}"
                    files[name], inputs[name] = Path(folder) / f"{name}.onnx", [shape.example()]
                    write_layer(files[name], shape, copies)
            seconds = SECONDS_PER_FILE * len(files)
            times = self.device.measure(files, inputs, threads=self.threads, seconds=seconds)
        ms = {name: latency.cpu_p50_ms for name, latency in times.items()}
        return {(i, j): _of_one(ms[f"{i},{j},1"], ms.get(f"{i},{j},{COPIES}")) for i, j in part}


def _of_one(one: float, several: float | None) -> float:
    """From the times of a file with one layer and, where there is one, of a file with several."""
    return one if several is None else max((several - one) / (COPIES - 1), 0.0)


def _parts(
    points: Sequence[tuple[int, int]], shapes: Sequence[LayerShape]
) -> Iterator[dict[tuple[int, int], LayerShape]]:
    """As many at once as the memory takes."""
    part: dict[tuple[int, int], LayerShape] = {}
    held = 0
    for point, shape in zip(points, shapes, strict=True):
        size = 4 * shape.weights * (1 if shape.weights > LARGE else 1 + COPIES)
        if part and held + size > _AT_ONCE:
            yield part
            part, held = {}, 0
        part[point] = shape
        held += size
    if part:
        yield part
