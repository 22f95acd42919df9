"""Which layers bear int8: each of them alone, and then as many as a budget of accuracy or bytes allows.

The worst layers fall back to fp32 until the metric holds, and what lies between layers in fp32 with them; weights
go to 4 bits (`codebook`), least harmful per byte first, until the file is small enough or the metric no longer
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.compression.bench import Bench, Settings, Tried
from neuroprune.compression.codebook import WORTH_PACKING, pack_weights
from neuroprune.compression.layers import Layer, array_of, constants_of, layers_of
from neuroprune.compression.qdq import excluded, temporary_folder
from neuroprune.compression.quantize import QuantizeReport, opened, write_int8
from neuroprune.compression.watch import Batch
from neuroprune.export.onnx import OnnxExport

if TYPE_CHECKING:
    from onnx import ModelProto

#: the metric of a file: more is better
Judge = Callable[[Path], float]

#: chunks of calibration data that a single layer is judged on (64 examples where the batch is free)
_CHUNKS = 4


@dataclass(frozen=True)
class LayerError:
    """A layer and what the outputs lose (`Bench.error`) when it alone is int8, or has 4-bit weights as well (None:
    not asked, or too small to pack). ``precision``: what it got in the end."""

    layer: str
    weights: int
    int8: float
    packed: float | None = None
    precision: str = "int8"


@dataclass(frozen=True)
class MixedReport:
    """``report``: of the file; ``layers``: worst first; ``fp32`` and ``metric``: by the judge, before and after.
    ``tried``: what was judged on the way, as (layers in fp32, layers packed, metric). ``missed``: budgets that do
    not hold."""

    report: QuantizeReport
    layers: tuple[LayerError, ...]
    fp32: float
    metric: float
    tried: tuple[tuple[int, int, float], ...]
    missed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def layer_errors(
    bench: Bench, settings: Settings, kept: Sequence[str] = (), *, packed: bool = False
) -> tuple[tuple[Layer, LayerError], ...]:
    """Every layer alone in int8 (all else in float), worst first. Layers in ``kept`` are left out."""
    nodes = [node.name for node in bench.graph.graph.node]
    constants = constants_of(bench.graph)
    found = []
    for layer in layers_of(bench.graph):
        if layer.node in kept:
            continue
        others = [name for name in nodes if name != layer.node]
        alone = bench.quantized(replace(settings, correct_bias=False), others)
        size = array_of(constants[layer.weight]).size
        error = bench.error(alone, _CHUNKS)
        small = None
        if packed and size >= WORTH_PACKING:
            pack_weights(alone, [packed_name(layer)])
            small = bench.error(alone, _CHUNKS)
        found.append((layer, LayerError(layer.name, size, error, small)))
    return tuple(sorted(found, key=lambda pair: (-pair[1].int8, pair[0].node)))


def packed_name(layer: Layer) -> str:
    """Of the layer's integers in the QDQ graph."""
    return f"{layer.weight}_quantized"


def mixed_precision(
    source: Path,
    target: Path,
    calibration: Iterable[Batch],
    *,
    judge: Judge | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    pack: bool = False,
    settings: Settings | None = None,
    auto: bool = False,
    exclude: Sequence[str] = (),
    originals: Sequence[np.ndarray] = (),
) -> MixedReport:
    """Write ``target``: ``source`` in int8, with the worst layers in fp32 and weights of 4 bits as budgets ask.

    ``max_drop``: how much of the fp32 file's metric may go, in the metric's units. ``judge`` gives a file's
    metric; without one it is the share of calibration examples, in percent, with fp32's largest output.
    ``max_bytes``: of the file. ``pack``: store weights in 4 bits where ``max_drop`` allows, though nothing asks
    for it. ``settings``: see `Settings`; ``auto`` measures which method is best, with equalisation and bias
    correction or without, as ``method="auto"`` does. A budget that cannot be met is in ``missed``. Raises
    UserError as `quantize_onnx`, for a negative budget, and where the outputs are no classes and there is no
    judge.
    """
    if (max_drop is not None and not max_drop >= 0) or (max_bytes is not None and max_bytes < 1):
        raise UserError(
            "a budget must not be negative",
            value=f"max_drop {max_drop}, max_bytes {max_bytes}",
            mend="give max_drop=0.5 (in the metric's units) or max_bytes=100_000",
        )
    bench = opened(source, calibration, originals)
    with temporary_folder() as folder:
        kept = excluded(bench.graph, exclude)
        tried: tuple[Tried, ...] = ()
        settings = settings or Settings()
        if auto:
            settings, tried = bench.best(settings, kept)
        errors = layer_errors(bench, settings, kept, packed=pack or max_bytes is not None)
        search = _Search(bench, source, folder / "try.onnx", settings, kept, errors, judge or _Agreement(bench))
        return search.run(target, max_drop, max_bytes, pack, tried)


class _Agreement:
    """Percent of the calibration examples with fp32's largest output."""

    def __init__(self, bench: Bench) -> None:
        first = [chunk[0] for chunk in bench.expected]
        if any(a.ndim < 2 or a.shape[1] < 2 for a in first):
            raise UserError(
                "the first output has no classes, so nothing says how good a file is",
                value=str(first[0].shape),
                mend="give judge=, a function from a file to its metric",
            )
        self.bench, self.expected = bench, np.concatenate([a.argmax(1).ravel() for a in first])

    def __call__(self, path: Path) -> float:
        session = OnnxExport().load(path)
        found = [session.run(batch)[0].argmax(1).ravel() for batch in self.bench.batches]
        return 100.0 * float((np.concatenate(found) == self.expected).mean())


class _Search:
    def __init__(
        self,
        bench: Bench,
        source: Path,
        trial: Path,
        settings: Settings,
        kept: Sequence[str],
        errors: Sequence[tuple[Layer, LayerError]],
        judge: Judge,
    ) -> None:
        self.bench, self.source, self.trial, self.settings = bench, source, trial, settings
        self.kept, self.errors, self.judge = list(kept), errors, judge
        self.floats, self.packs = 0, 0
        self.tried: dict[tuple[int, int], float] = {}
        able = [(layer, e) for layer, e in errors if e.packed is not None]
        self.packable = sorted(able, key=lambda pair: ((pair[1].packed or 0) - pair[1].int8) / pair[1].weights)

    def run(
        self, target: Path, max_drop: float | None, max_bytes: int | None, pack: bool, tried: tuple[Tried, ...]
    ) -> MixedReport:
        fp32 = float(self.judge(self.source))

        def holds(floats: int, packs: int) -> bool:
            return max_drop is None or fp32 - self._metric(floats, packs) <= max_drop + 1e-9

        self.floats = _fewest(lambda n: holds(n, 0), len(self.errors))
        if pack and max_drop is not None:
            most = len(self._packed(self.floats, len(self.packable)))
            self.packs = most - _fewest(lambda n: holds(self.floats, most - n), most)
        if max_bytes is not None:
            needed = _fewest(lambda n: self._write(self.trial, self.floats, n).target_bytes <= max_bytes,
                             len(self.packable))  # fmt: skip
            self.packs = max(self.packs, needed)
        report = replace(self._write(target, self.floats, self.packs), tried=tried)
        if (self.floats, self.packs) not in self.tried:
            self.tried[self.floats, self.packs] = float(self.judge(target))
        missed = [] if holds(self.floats, self.packs) else ["max_drop"]
        missed += ["max_bytes"] if max_bytes is not None and report.target_bytes > max_bytes else []
        return MixedReport(
            report,
            self._layers(),
            fp32,
            self._metric(self.floats, self.packs),
            tuple((*key, value) for key, value in self.tried.items()),
            tuple(missed),
        )

    def _floating(self, floats: int) -> list[str]:
        layers = [*self.kept, *(layer.node for layer, _ in self.errors[:floats])]
        return [*layers, *between(self.bench.graph, layers)] if floats else layers

    def _packed(self, floats: int, packs: int) -> list[str]:
        floating = self._floating(floats)
        return [packed_name(layer) for layer, _ in self.packable if layer.node not in floating][:packs]

    def _metric(self, floats: int, packs: int) -> float:
        if (floats, packs) not in self.tried:
            self._write(self.trial, floats, packs)
            self.tried[floats, packs] = float(self.judge(self.trial))
        return self.tried[floats, packs]

    def _write(self, path: Path, floats: int, packs: int) -> QuantizeReport:
        return write_int8(
            self.bench,
            self.source,
            path,
            self.settings,
            self._floating(floats),
            packed=self._packed(floats, packs),
        )

    def _layers(self) -> tuple[LayerError, ...]:
        packed = set(self._packed(self.floats, self.packs))
        floating = {layer.node for layer, _ in self.errors[: self.floats]}
        return tuple(
            replace(
                error,
                precision="fp32"
                if layer.node in floating
                else "int8, weights in 4 bits"
                if packed_name(layer) in packed
                else "int8",
            )
            for layer, error in self.errors
        )


def between(proto: ModelProto, floating: Sequence[str]) -> list[str]:
    """Operators that have no weights and no integer layer beside them: what a flood from those layers does not
    reach (sums end it)."""
    layers = {layer.node for layer in layers_of(proto)}
    maker = {out: node.name for node in proto.graph.node for out in node.output}
    beside = {node.name: set[str]() for node in proto.graph.node}
    for node in proto.graph.node:
        for one in filter(None, map(maker.get, node.input)):
            beside[one].add(node.name)
            beside[node.name].add(one)
    sums = {node.name for node in proto.graph.node if sum(value in maker for value in node.input) > 1}
    reached, open_ = set[str](), list(layers - set(floating))
    while open_:
        fresh = beside[open_.pop()] - reached - layers
        reached |= fresh
        open_ += fresh - sums
    return [name for name in beside if name not in layers | reached]


def _fewest(holds: Callable[[int], bool], most: int) -> int:
    """The smallest number from 0 to ``most`` that holds, if what holds goes on to hold; ``most`` if none does.

    Doubling first: where few are needed, few are tried.

    >>> _fewest(lambda n: n >= 5, 100)
    5
    """
    low, high = -1, 0  # low does not hold
    while high < most and not holds(high):
        low, high = high, min(max(2 * high, 1), most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
