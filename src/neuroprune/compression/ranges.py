"""The range that integers cover, per activation tensor: extremes, percentile, least KL divergence, least squares.

Two passes over the calibration data: the extremes of each tensor, then a histogram between them. No tensor of more
than `watch.CHUNK` examples is ever held, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroprune.base.errors import UserError
from neuroprune.base.registry import Registry
from neuroprune.compression.watch import Batch, Watched

if TYPE_CHECKING:
    from onnx import ModelProto

Floats = NDArray[np.float64]
Range = tuple[float, float]

BINS = 2048
_PERCENTILE = 99.999
#: shares of the extremes that ``mse`` and ``entropy`` look at
_SHARES = np.linspace(0.2, 1.0, 33)


@dataclass(frozen=True)
class Histogram:
    """``counts`` of the non-zero values in equal bins from ``low`` to ``high``; ``zeros``: how many are exactly
    zero, which every range represents without error."""

    low: float
    high: float
    counts: Floats
    zeros: float

    @property
    def centres(self) -> Floats:
        width = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + width * (np.arange(len(self.counts)) + 0.5), np.float64)


#: ``(histogram, symmetric)`` -> the range; ``symmetric``: the integers will cover [-m, m], m the larger end
RangeMethod = Callable[[Histogram, bool], Range]

RANGES: Registry[RangeMethod] = Registry("calibration method")


@RANGES.register("minmax", summary="the extremes seen", source="Krishnamoorthi 2018, Quantizing deep networks")
def minmax(histogram: Histogram, symmetric: bool) -> Range:
    return histogram.low, histogram.high


@RANGES.register("percentile", summary="all but a hundred-thousandth of the values", source="Wu et al. 2020")
def percentile(histogram: Histogram, symmetric: bool) -> Range:
    """The ends of the bins between which the percentile lies; half of what is left over goes on each side."""
    total = histogram.counts.sum() + histogram.zeros
    out = total * (1 - _PERCENTILE / 100) / 2
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    below = np.searchsorted(histogram.counts.cumsum(), out, side="right")
    above = np.searchsorted(histogram.counts[::-1].cumsum(), out, side="right")
    last = len(histogram.counts) - 1
    return float(edges[min(below, last)]), float(edges[::-1][min(above, last)])


@RANGES.register(
    "mse", summary="least squared error of the integers", source="Nagel et al. 2021, White paper, 3.1"
)
def mse(histogram: Histogram, symmetric: bool) -> Range:
    """By trying a fifth to the whole of either extreme."""
    values, counts = histogram.centres, histogram.counts
    if not counts.sum():  # constant
        return histogram.low, histogram.high

    def error(low: float, high: float) -> float:
        return float((counts * (quantized(values, low, high, symmetric) - values) ** 2).sum())

    return min(_candidates(histogram, symmetric), key=lambda ends: error(*ends))


@RANGES.register("entropy", summary="least KL divergence of the integers", source="Migacz 2017, 8-bit inference")
def entropy(histogram: Histogram, symmetric: bool) -> Range:
    """Of the distribution with what is outside moved to the ends, from the one that the integers can tell.

    ONNX Runtime's calibrator of this name compares 128 bins with 128 levels: one candidate, the whole range.
    """
    values, counts = histogram.centres, histogram.counts
    if not counts.sum():
        return histogram.low, histogram.high

    def divergence(low: float, high: float) -> float:
        inside = (values >= low) & (values <= high)
        if not inside.any():
            return float("inf")
        mass = np.where(inside, counts, 0.0)
        first, last = np.flatnonzero(inside)[[0, -1]]
        clipped = mass.copy()
        clipped[first] += counts[:first].sum()
        clipped[last] += counts[last + 1 :].sum()
        levels = np.rint(quantized(values, low, high, symmetric) / _scale(low, high, symmetric)).astype(np.int64)
        return _divergence(clipped, mass, levels - levels.min())

    return min(_candidates(histogram, symmetric), key=lambda ends: divergence(*ends))


def _divergence(clipped: Floats, mass: Floats, levels: NDArray[np.int64]) -> float:
    """KL of ``clipped`` from ``mass`` spread evenly over the bins of each level that hold something."""
    held = clipped > 0
    total = np.bincount(levels, mass * held)
    bins = np.bincount(levels, held)
    spread = (total / np.maximum(bins, 1))[levels]
    p = clipped[held] / clipped.sum()
    q = np.maximum(spread[held], 1e-12) / max(mass.sum(), 1e-12)
    return float((p * np.log(p / q)).sum())


def _candidates(histogram: Histogram, symmetric: bool) -> list[Range]:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetric:
        end = max(-low, high)
        return [(-end * share, end * share) for share in _SHARES]
    lows = low * _SHARES if low < 0 else np.zeros(1)
    highs = high * _SHARES if high > 0 else np.zeros(1)
    return [(float(a), float(b)) for a in lows for b in highs]


def _scale(low: float, high: float, symmetric: bool) -> float:
    """Of 255 steps from ``low`` to ``high`` (uint8), or 127 on either side of zero (int8)."""
    width = max(-low, high) / 127 if symmetric else (high - low) / 255
    return max(width, float(np.finfo(np.float32).tiny))


def quantized(values: Floats, low: float, high: float, symmetric: bool) -> Floats:
    """What is left of ``values`` after integers of this range: zero is one of them, as ONNX demands."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale(low, high, symmetric)
    zero = 0.0 if symmetric else np.rint(-low / scale)
    bottom, top = (-127.0, 127.0) if symmetric else (0.0, 255.0)
    return (np.clip(np.rint(values / scale) + zero, bottom, top) - zero) * scale


class Observed:
    """Extremes and histograms of the tensors ``names`` of ``proto`` on ``batches``.

    Raises UserError, naming the tensor, where one of them is not finite.
    """

    def __init__(self, proto: ModelProto, names: Sequence[str], batches: Sequence[Batch]) -> None:
        self.watched, self.batches = Watched(proto, names), batches
        self.extremes = self._extremes()
        self._histograms: dict[str, Histogram] | None = None

    def ranges(self, method: str, symmetric: bool = False) -> dict[str, Range]:
        """``(low, high)`` per tensor. Raises UserError for an unknown method."""
        rule = RANGES.get(method)
        if method == "minmax":
            return dict(self.extremes)
        if self._histograms is None:
            self._histograms = self._histogram()
        return {name: rule(histogram, symmetric) for name, histogram in self._histograms.items()}

    def _extremes(self) -> dict[str, Range]:
        found: dict[str, Range] = {}
        for tensors in self.watched.run(self.batches):
            for name, array in tensors.items():
                if not array.size:
                    continue
                low, high = float(array.min()), float(array.max())
                if not np.isfinite([low, high]).all():
                    raise UserError(
                        "the network's activations are not finite on the calibration data",
                        where=f"tensor {name!r}",
                        mend="check the weights and the scale of the inputs (preprocessing)",
                    )
                known = found.get(name, (low, high))
                found[name] = min(known[0], low), max(known[1], high)
        return found

    def _histogram(self) -> dict[str, Histogram]:
        counts = {name: np.zeros(BINS) for name in self.extremes}
        zeros = dict.fromkeys(self.extremes, 0.0)
        for tensors in self.watched.run(self.batches):
            for name, array in tensors.items():
                if array.size:
                    low, high = self.extremes[name]
                    values = array[array != 0]
                    counts[name] += np.histogram(values, BINS, (low, high))[0] if high > low else 0
                    zeros[name] += array.size - values.size
        return {n: Histogram(*self.extremes[n], counts[n], zeros[n]) for n in self.extremes}


def as_tensors_data(ranges: Mapping[str, Range]) -> object:
    """In the type that ONNX Runtime's quantiser takes."""
    from onnxruntime import quantization as q

    data = {
        name: q.TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    return q.TensorsData(q.CalibrationMethod.MinMax, data)


def float_tensors(proto: ModelProto, operators: Iterable[str]) -> list[str]:
    """Inputs and outputs of the ``operators`` that are computed (no constants) and of type float32.

    ``proto`` holds inferred shapes.
    """
    from onnx import TensorProto

    graph, wanted = proto.graph, set(operators)
    constants = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    nodes = [node for node in graph.node if node.op_type in wanted]
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    return [name for name in names if name in floats and name not in constants]
