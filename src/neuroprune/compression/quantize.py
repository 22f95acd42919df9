"""Static int8: an ONNX file with integer weights and activations, as small as it goes.

Weights are symmetric int8 per output channel, activations asymmetric uint8 per tensor, in QDQ form: ONNX Runtime
turns that into its integer kernels when it loads the file. Measured on x86 with VNNI (digits-size ResNet, one
thread): uint8 activations 63 us, int8 activations 162 us (half of the graph stays in float), uint8 weights 118 us,
fp32 107 us; hence the choice.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroprune.base.errors import NeuropruneError, UserError
from neuroprune.base.files import beginning
from neuroprune.base.registry import nearest
from neuroprune.compression.codebook import pack_weights
from neuroprune.export.onnx import write_proto
from neuroprune.export.slim import slim

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

Method = Literal["minmax", "percentile", "entropy"]
Batch = tuple[np.ndarray, ...]

#: Operators that ONNX Runtime computes on integers, or that only move them. Around all others (layer norm, erf,
#: batch norm) integers would be converted forth and back for nothing.
INTEGER_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
    *("GlobalAveragePool", "AveragePool", "MaxPool", "Concat", "Split", "Resize"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze"),
)


_GIVE_DATA = "give a few hundred examples of real data, preprocessed as for the network"
#: Operators whose second input must be an integer too for an integer kernel to take them
_TWO_OPERANDS = {"Conv", "Gemm", "MatMul", "Add", "Mul"}


@dataclass(frozen=True)
class QuantizeReport:
    """What became integer. ``integer`` and ``floating`` count the file's operators by type."""

    source_bytes: int
    target_bytes: int
    examples: int
    method: Method
    weight_bits: int
    integer: dict[str, int]
    floating: dict[str, int]

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
    reduce_range: bool = False,
) -> QuantizeReport:
    """Write ``target``: the fp32 file ``source`` in int8, calibrated on ``calibration``.

    Each item of ``calibration`` holds one array [batch, ...] per input of the file, in its order (see
    ``export.compare.capture_inputs``). ``exclude`` keeps layers in fp32: an operator type (``Conv``), or a
    module or parameter name (``layer1.0.conv1``; needs a source written with ``keep_names=True``). ``method``
    sets the activations' ranges: the extremes seen, the 99.999th percentile, or the least KL divergence.
    ``weight_bits=4`` stores 16 values per weight tensor and packed indices (see ``codebook``): half the bytes at
    the same speed, for some accuracy. ``reduce_range`` leaves one bit of the weights unused, for x86 processors
    without VNNI, whose int8 kernels may saturate.
    The batch size stays free, the metadata stay. Raises UserError when the calibration data are empty, not
    finite, constant or of other shapes than the inputs, and when ``exclude`` names nothing in the file.
    """
    proto = _load(source)
    if weight_bits not in (4, 8):
        raise UserError(
            "weights take 4 or 8 bits", where="weight_bits", value=weight_bits, mend="give weight_bits=8"
        )
    metadata = {p.key: p.value for p in proto.metadata_props}
    batches = _checked(_in_batches_of(metadata.get("batch", ""), calibration), _inputs(proto))
    with _refused(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = _prepare(proto, folder)
        kept = _excluded(prepared, exclude)
        quantized = _quantize(prepared, folder, batches, kept, method, reduce_range)
    del quantized.metadata_props[:]
    for key, value in {**metadata, "precision": "int8"}.items():
        quantized.metadata_props.add(key=key, value=value)
    integer, floating = _census(quantized)
    if weight_bits == 4:
        pack_weights(quantized)
    size = write_proto(target, slim(quantized))
    return QuantizeReport(
        source_bytes=source.stat().st_size,
        target_bytes=size,
        examples=sum(len(batch[0]) if batch[0].ndim else 1 for batch in batches),
        method=method,
        weight_bits=weight_bits,
        integer=integer,
        floating=floating,
    )


def _load(source: Path) -> ModelProto:
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


def _inputs(proto: ModelProto) -> list[ValueInfoProto]:
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def _in_batches_of(fixed: str, calibration: Iterable[Batch]) -> Iterable[Batch]:
    """The same examples in the one batch size that the file takes (a remainder is left out)."""
    if not fixed.isdigit():
        return calibration
    size = int(fixed)
    return [
        tuple(array[start : start + size] if len(array) == len(batch[0]) else array for array in batch)
        for batch in calibration
        for start in range(0, len(batch[0]) - size + 1, size)
    ]


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


def _prepare(proto: ModelProto, folder: Path) -> ModelProto:
    """Fold batch norms that are still there, turn means over positions into pooling, name the nodes."""
    import onnx

    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        proto = _fold(proto, folder)
    proto = onnx.shape_inference.infer_shapes(proto)
    _pool_means(proto)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return slim(proto, keep_names=True)  # the axes of those means are left over


def _fold(proto: ModelProto, folder: Path) -> ModelProto:
    """ONNX Runtime's hardware-independent rewrites: batch norm into the layer before it, constants folded."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "folded.onnx")


def _pool_means(proto: ModelProto) -> None:
    """ReduceMean over height and width -> GlobalAveragePool, which has an integer kernel."""
    from onnx import numpy_helper

    graph = proto.graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]])}
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if ranks.get(node.input[0]) == 4 and axes == {2, 3} and keeps:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _excluded(proto: ModelProto, exclude: Sequence[str]) -> list[str]:
    """Names of the nodes that ``exclude`` means."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    found: list[str] = []
    for wanted in exclude:
        hits = [node.name for node in proto.graph.node if _is_meant(node, wanted, constants)]
        if not hits:
            known = {name.rpartition(".")[0] or name for name in constants}
            known |= {node.op_type for node in proto.graph.node}
            guess = nearest(wanted, known)
            raise UserError(
                f"exclude names {wanted!r}, and nothing in the file is called so",
                value=wanted,
                mend=(f"did you mean {guess!r}? " if guess else "")
                + "give an operator type, or a layer of a file written with keep_names=True",
            )
        found += hits
    return found


def _is_meant(node: NodeProto, wanted: str, constants: set[str]) -> bool:
    parameters = [name for name in node.input if name in constants]
    named = any(name == wanted or name.startswith(f"{wanted}.") for name in parameters)
    return named or wanted in (node.op_type, node.name)


def _quantize(
    proto: ModelProto,
    folder: Path,
    batches: list[Batch],
    kept: list[str],
    method: Method,
    reduce_range: bool,
) -> ModelProto:
    import onnx
    from onnxruntime import quantization as q

    methods = {
        "minmax": q.CalibrationMethod.MinMax,
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(proto, source)
    with _quiet():
        q.quantize_static(
            source,
            target,
            _Reader([value.name for value in _inputs(proto)], batches),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=list(INTEGER_OPERATORS),
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=methods[method],
            # The runtime quantises biases itself when it loads the file (1.22 and later): 4 bytes per
            # channel less, and no second scale to keep consistent.
            extra_options={"QuantizeBias": False},
        )
    return onnx.load(target)


class _Reader:
    """Feeds batches to ONNX Runtime's calibrator (its ``CalibrationDataReader``, by duck typing)."""

    def __init__(self, names: list[str], batches: list[Batch]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(
            [dict(zip(names, batch, strict=True)) for batch in batches]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _census(proto: ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Operators that integers go into and come out of, and all others."""
    nodes = proto.graph.node
    from_integer = {out for n in nodes if n.op_type == "DequantizeLinear" for out in n.output}
    to_integer = {n.input[0] for n in nodes if n.op_type == "QuantizeLinear"}
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    for node in nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        operands = node.input[: 2 if node.op_type in _TWO_OPERANDS else 1]
        is_integer = from_integer.issuperset(operands) and to_integer.issuperset(node.output)
        (integer if is_integer else floating)[node.op_type] += 1
    return dict(integer), dict(floating)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime advises on the root logger to preprocess the file, which has just been done, and prints."""

    def wanted(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    handlers = list(root.handlers)
    root.addFilter(wanted)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(wanted)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)  # logging.warning() installs one on first use


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """ONNX Runtime's quantiser raises whatever it meets in a network that it cannot take."""
    try:
        yield
    except NeuropruneError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot write what quantising needs in passing: {error.strerror or error}",
            where=tempfile.gettempdir(),
            mend="free some space, or set TMPDIR to another folder",
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"ONNX Runtime cannot quantise this network: {lines[0] if lines else type(error).__name__}",
            mend="exclude the operator it names, or ship the fp32 file",
        ) from error
