"""Static int8: an ONNX file with integer weights and activations, as small as it goes.

Weights are symmetric int8 per output channel, activations asymmetric uint8 per tensor, in QDQ form: ONNX Runtime
turns that into its integer kernels when it loads the file. Symmetric int8 activations are slower than fp32 on x86
(docs/quantize.md); hence the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.files import beginning
from neuroprune.compression.bench import Activations, Bench, Settings, Tried, Weights
from neuroprune.compression.layers import array_of, metadata_of, set_metadata
from neuroprune.compression.qdq import INTEGER_OPERATORS, census, excluded
from neuroprune.compression.ranges import Range
from neuroprune.compression.watch import Batch, in_batches_of, inputs_of
from neuroprune.export.onnx import write_proto
from neuroprune.export.slim import slim

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Method = Literal["minmax", "percentile", "entropy", "mse", "auto"]

_GIVE_DATA = "give a few hundred examples of real data, preprocessed as for the network"


@dataclass(frozen=True)
class QuantizeReport:
    """What became integer. ``integer`` and ``floating`` count the file's operators by type; ``reasons``: why each
    type in ``floating`` is there. ``method``: the calibration that was taken, ``settings``: with what else.
    ``tried``: what ``auto`` compared. ``clusters``: layers whose few distinct values were kept."""

    source_bytes: int
    target_bytes: int
    examples: int
    method: str
    weight_bits: int
    integer: dict[str, int]
    floating: dict[str, int]
    reasons: dict[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    tried: tuple[Tried, ...] = ()
    clusters: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def quantize_onnx(
    source: Path,
    target: Path,
    calibration: Iterable[Batch],
    *,
    exclude: Sequence[str] = (),
    method: Method = "minmax",
    weight_bits: Literal[4, 8] = 8,
    weights: Weights = "channel",
    activations: Activations = "asymmetric",
    equalize: bool = False,
    correct_bias: bool = False,
    keep_clusters: bool = True,
    originals: Sequence[np.ndarray] = (),
    learned: Mapping[str, Range] | None = None,
    reduce_range: bool = False,
) -> QuantizeReport:
    """Write ``target``: the fp32 file ``source`` in int8, calibrated on ``calibration``.

    Each item of ``calibration`` holds one array [batch, ...] per input of the file, in its order (see
    ``export.compare.capture_inputs``). ``exclude`` keeps layers in fp32: an operator type (``Conv``), or a
    module or parameter name (``layer1.0.conv1``; needs a source written with ``keep_names=True``). ``method``
    sets the activations' ranges (`ranges`): the extremes seen, the 99.999th percentile, the least KL divergence,
    the least squared error; ``auto`` tries all, with ``equalize`` and ``correct_bias`` or without, and keeps what
    is closest to fp32 on the calibration data. ``weights``, ``activations``, ``equalize``, ``correct_bias``: see
    `bench.Settings`. ``keep_clusters``: a weight tensor of few distinct values has no more of them as integers,
    zeros stay zeros; ``originals``: such tensors as they were before batch norm was folded into them
    (`distinct`). ``learned``: ranges of layers' inputs by the layers' names, from quantisation-aware training
    (`recover.qat`), in place of calibrated ones; needs a source with names. ``weight_bits=4`` stores 16 values per
    weight tensor and packed indices (see ``codebook``): half the bytes at the same speed, for some accuracy.
    ``reduce_range`` leaves one bit of the weights unused, for x86 processors without VNNI, whose int8 kernels may
    saturate.
    The batch size stays free, the metadata stay. Memory: the inner tensors of `watch.CHUNK` examples, however
    many there are. Raises UserError when the calibration data are empty, not finite, constant or of other shapes
    than the inputs, when a weight is not finite, and when ``exclude`` names nothing in the file.
    """
    if weight_bits not in (4, 8):
        raise UserError(
            "weights take 4 or 8 bits", where="weight_bits", value=weight_bits, mend="give weight_bits=8"
        )
    settings = Settings(
        "minmax" if method == "auto" else method,
        weights,
        activations,
        equalize=equalize,
        correct_bias=correct_bias,
        keep_clusters=keep_clusters,
        reduce_range=reduce_range,
    )
    bench = opened(source, calibration, originals)
    kept = excluded(bench.graph, exclude)
    packed = None if weight_bits == 4 else ()
    tried: tuple[Tried, ...] = ()
    if method == "auto":
        settings, tried = bench.best(settings, kept, learned, packed)
    return write_int8(bench, source, target, settings, kept, tried=tried, packed=packed, learned=learned)


def opened(source: Path, calibration: Iterable[Batch], originals: Sequence[np.ndarray] = ()) -> Bench:
    """The fp32 file and its calibration data, checked."""
    proto = load_onnx(source)
    check_weights(proto)
    batches = _checked(_whole_batches(metadata_of(proto).get("batch", ""), calibration), inputs_of(proto))
    return Bench(proto, batches, originals)


def write_int8(
    bench: Bench,
    source: Path,
    target: Path,
    settings: Settings,
    kept: Sequence[str],
    *,
    tried: tuple[Tried, ...] = (),
    packed: Sequence[str] | None = (),
    learned: Mapping[str, Range] | None = None,
) -> QuantizeReport:
    """Write one choice of a bench. ``kept``: nodes that stay in float; ``packed``: weights stored in 4 bits (None:
    all); ``learned``: see `quantize_onnx`."""
    quantized = bench.quantized(settings, kept, learned, packed)
    set_metadata(quantized, bench.metadata | {"precision": "int8"})
    integer, floating = census(quantized)
    size = write_proto(target, slim(quantized))
    return QuantizeReport(
        source_bytes=source.stat().st_size,
        target_bytes=size,
        examples=sum(len(batch[0]) if batch[0].ndim else 1 for batch in bench.batches),
        method=settings.method,
        weight_bits=4 if packed is None else 8,
        integer=integer,
        floating=floating,
        reasons=_reasons(bench.graph, floating, kept),
        settings=settings,
        tried=tried,
        clusters=bench.kept_clusters(settings, kept),
    )


def _reasons(graph: ModelProto, floating: dict[str, int], kept: Sequence[str]) -> dict[str, str]:
    left_out = {node.op_type for node in graph.graph.node if node.name in kept}
    return {
        kind: "no integer kernel"
        if kind not in INTEGER_OPERATORS
        else "kept in float"
        if kind in left_out
        else "beside operators in float"
        for kind in floating
    }


def check_weights(proto: ModelProto) -> None:
    for tensor in proto.graph.initializer:
        array = array_of(tensor)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                "the weights hold NaN or infinity",
                where=f"{tensor.name!r}",
                value=f"{int((~np.isfinite(array)).sum())} of {array.size} values",
                mend="train again, or load the weights again, and export",
            )


def load_onnx(source: Path) -> ModelProto:
    import onnx

    if not source.is_file():
        raise UserError(
            f"there is no file {source.name}",
            where=str(source.parent),
            value=str(source),
            mend="check the path; export the network first",
        )
    try:
        return onnx.load(source)
    except Exception as error:  # protobuf's error class has no public home
        raise UserError(
            f"{source.name} is not a readable ONNX file",
            where=str(source),
            value=beginning(source),
            mend="export the network again",
        ) from error


def _whole_batches(fixed: str, calibration: Iterable[Batch]) -> Iterable[Batch]:
    """The same examples in the one batch size that the file takes (a remainder is left out)."""
    if not fixed.isdigit():
        return calibration
    return in_batches_of(int(fixed), calibration, whole=True)


def _checked(calibration: Iterable[Batch], inputs: Sequence[ValueInfoProto]) -> list[Batch]:
    """The calibration batches as tuples of arrays. Raises UserError for what would give useless ranges."""
    batches = [tuple(np.asarray(array) for array in batch) for batch in calibration]
    if not batches or all(array.size == 0 for batch in batches for array in batch):
        raise UserError("int8 needs calibration data, and there are none", mend=_GIVE_DATA)
    for index, batch in enumerate(batches):
        if len(batch) != len(inputs):
            raise UserError(
                f"the network takes {len(inputs)} inputs ({', '.join(value.name for value in inputs)})",
                where=f"calibration batch {index}",
                value=f"{len(batch)} arrays",
                mend="give one array for each input, in this order",
            )
        for value, array in zip(inputs, batch, strict=True):
            _check_array(array, value, f"input {value.name!r}, batch {index}")
    columns = list(zip(*batches, strict=True))
    if all(min(a.min() for a in column) == max(a.max() for a in column) for column in columns):
        raise UserError(
            "the calibration data are constant: they tell nothing about the activations' ranges",
            value=columns[0][0].flat[0],
            mend=_GIVE_DATA,
        )
    return batches


def _check_array(array: np.ndarray, value: ValueInfoProto, where: str) -> None:
    from onnx import helper

    kind = value.type.tensor_type
    dims = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
    fits = len(dims) == array.ndim and all(
        isinstance(d, str) or d == n for d, n in zip(dims, array.shape, strict=False)
    )
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if not fits or array.dtype != dtype:
        raise UserError(
            f"the calibration data do not fit the network, which takes {dtype} of shape {dims}",
            where=where,
            value=f"{array.dtype} of shape {list(array.shape)}",
            mend=_GIVE_DATA,
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError("the calibration data hold NaN or infinity", where=where, mend=_GIVE_DATA)
