"""A float graph with its calibration data, to be quantised in one way after another and compared with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.compression.bias_correction import correct_biases
from neuroprune.compression.codebook import pack_weights
from neuroprune.compression.distinct import Overrides, is_clustered, keep_distinct
from neuroprune.compression.equalize import equalize, pairs_of
from neuroprune.compression.layers import array_of, constants_of, layers_of, metadata_of
from neuroprune.compression.qdq import INTEGER_OPERATORS, insert, prepare, refused
from neuroprune.compression.ranges import RANGES, Observed, Range, float_tensors
from neuroprune.compression.watch import Batch, Watched

if TYPE_CHECKING:
    from onnx import ModelProto

Weights = Literal["channel", "tensor"]
Activations = Literal["asymmetric", "symmetric"]


@dataclass(frozen=True)
class Settings:
    """How a graph becomes int8. ``method``: of the activations' ranges (`ranges.RANGES`). ``weights``: a scale per
    output ``channel`` or per ``tensor``. ``activations``: uint8 with a zero point, or int8 around zero.
    ``equalize``, ``correct_bias``: see the modules of these names. ``keep_clusters``: see `distinct`. Raises
    UserError for unknown words."""

    method: str = "minmax"
    weights: Weights = "channel"
    activations: Activations = "asymmetric"
    equalize: bool = False
    correct_bias: bool = False
    reduce_range: bool = False
    keep_clusters: bool = True

    def __post_init__(self) -> None:
        RANGES.get(self.method)
        for name, known in (("weights", get_args(Weights)), ("activations", get_args(Activations))):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"unknown way to quantise {name}", value=value, mend=f"give {' or '.join(known)}")

    @property
    def words(self) -> str:
        ways = (
            ("one scale per tensor", self.weights == "tensor"),
            ("symmetric activations", self.activations == "symmetric"),
            ("equalised", self.equalize), ("biases corrected", self.correct_bias),
        )  # fmt: skip
        extras = [word for word, on in ways if on]
        return ", ".join([self.method, *extras])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tried:
    """One way, and how far its outputs are from fp32's on the calibration data (see `Bench.error`)."""

    settings: Settings
    error: float


class Bench:
    """``proto``: as read; ``originals``: clustered weights before batch norms were folded in (see `distinct`)."""

    def __init__(self, proto: ModelProto, batches: Sequence[Batch], originals: Sequence[np.ndarray] = ()) -> None:
        self.metadata = metadata_of(proto)
        with refused():
            self.graph = prepare(proto)
        self.batches = list(batches)
        constants = constants_of(self.graph)
        weights = {layer.weight: array_of(constants[layer.weight]) for layer in layers_of(self.graph)}
        self.originals = [*originals, *(w for w in weights.values() if is_clustered(w))]
        self.pairs = len(pairs_of(self.graph))
        self._ways: dict[tuple[bool, bool, bool], tuple[ModelProto, Overrides]] = {}
        self._observed: dict[bool, Observed] = {}
        self._ranges: dict[tuple[bool, str, bool], dict[str, Range]] = {}

    @refused()
    def quantized(
        self,
        settings: Settings,
        kept: Sequence[str] = (),
        learned: Mapping[str, Range] | None = None,
        packed: Sequence[str] | None = (),
    ) -> ModelProto:
        """The graph in QDQ form; nodes called ``kept`` stay in float. ``learned``: ranges of layers' inputs that
        are known already, by the layers' names. ``packed``: integers of weights that get 4 bits (None: all)."""
        proto, overrides = self._way(settings)
        symmetric = settings.activations == "symmetric"
        used = {layer.weight for layer in layers_of(proto) if layer.node not in kept}
        result = insert(
            proto,
            self.ranges(settings) | (self._by_tensor(learned, settings) if learned else {}),
            kept,
            per_channel=settings.weights == "channel",
            symmetric=symmetric,
            reduce_range=settings.reduce_range,
            overrides={name: value for name, value in overrides.items() if name in used},
        )
        if packed is None or packed:
            pack_weights(result, packed)
        if settings.correct_bias:
            correct_biases(proto, result, self.batches)
        return result

    def _by_tensor(self, learned: Mapping[str, Range], settings: Settings) -> dict[str, Range]:
        inputs = {node.name: node.input[0] for node in self.graph.graph.node}
        names = {layer.name: inputs[layer.node] for layer in layers_of(self.graph)}
        unknown = sorted(set(learned) - set(names))
        if unknown or settings.equalize:
            raise UserError(
                "learned ranges are of other layers"
                if unknown
                else "learned ranges do not fit layers that are equalised",
                value=", ".join(unknown[:3]) or "equalize=True",
                mend="export with keep_names=True the network that was trained, and leave equalize out",
            )
        return {names[name]: ends for name, ends in learned.items()}

    def ranges(self, settings: Settings) -> dict[str, Range]:
        """Of every tensor that may become integer; computed once per method."""
        symmetric = settings.activations == "symmetric"
        key = settings.equalize, settings.method, symmetric
        if key not in self._ranges:
            if settings.equalize not in self._observed:
                proto = self._way(settings)[0]
                tensors = float_tensors(proto, INTEGER_OPERATORS)
                self._observed[settings.equalize] = Observed(proto, tensors, self.batches)
            self._ranges[key] = self._observed[settings.equalize].ranges(settings.method, symmetric)
        return self._ranges[key]

    def kept_clusters(self, settings: Settings, kept: Sequence[str] = ()) -> tuple[str, ...]:
        """Layers whose few distinct values are kept."""
        proto, overrides = self._way(settings)
        return tuple(x.name for x in layers_of(proto) if x.weight in overrides and x.node not in kept)

    def _way(self, settings: Settings) -> tuple[ModelProto, Overrides]:
        """The float graph as these settings want it, and what its clustered weights ask for."""
        key = settings.equalize, settings.keep_clusters, settings.reduce_range
        if key not in self._ways:
            proto = type(self.graph)()
            proto.CopyFrom(self.graph)
            if settings.equalize:
                clusters = self._way(replace(settings, equalize=False))[1]
                equalize(proto, clusters)  # which must not take them apart
            top = 63 if settings.reduce_range else 127
            overrides = keep_distinct(proto, self.originals, top) if settings.keep_clusters else {}
            self._ways[key] = proto, overrides
        return self._ways[key]

    @cached_property
    def expected(self) -> list[list[np.ndarray]]:
        """The float graph's outputs, chunk by chunk."""
        return [list(tensors.values()) for tensors in Watched(self.graph).run(self.batches)]

    @refused()
    def error(self, proto: ModelProto, chunks: int | None = None) -> float:
        """Root of the mean squared difference of ``proto``'s outputs over the standard deviation of fp32's: 0 for
        the same outputs, 1 for none of the information. The worst output counts. ``chunks``: look at so many
        of the data only."""
        found = [list(tensors.values()) for tensors in islice(Watched(proto).run(self.batches), chunks)]
        errors = []
        for theirs, ours in zip(zip(*self.expected[:chunks], strict=True), zip(*found, strict=True), strict=True):
            fp32 = np.concatenate([t.ravel() for t in theirs]).astype(np.float64)
            gap = np.concatenate([o.ravel() for o in ours]) - fp32
            errors.append(float(np.sqrt((gap**2).mean()) / max(fp32.std(), 1e-12)) if fp32.size else 0.0)
        return max(errors, default=0.0)

    def best(
        self,
        settings: Settings,
        kept: Sequence[str] = (),
        learned: Mapping[str, Range] | None = None,
        packed: Sequence[str] | None = (),
    ) -> tuple[Settings, tuple[Tried, ...]]:
        """The calibration method, with or without equalisation, and then with or without bias correction, whose
        outputs are closest to fp32's on the calibration data; and everything that was tried. ``kept``,
        ``learned``, ``packed``: see `quantized`; learned ranges leave equalisation out."""

        def tried_out(way: Settings) -> Tried:
            return Tried(way, self.error(self.quantized(way, kept, learned, packed)))

        plain = [replace(settings, method=method, equalize=False, correct_bias=False) for method in RANGES.names()]
        equal = (False, True) if self.pairs and not learned else (False,)
        tried = [tried_out(replace(way, equalize=on)) for way in plain for on in equal]
        first = min(tried, key=lambda t: t.error).settings
        tried.append(tried_out(replace(first, correct_bias=True)))
        return min(tried, key=lambda t: t.error).settings, tuple(tried)
