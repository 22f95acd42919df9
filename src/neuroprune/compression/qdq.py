"""An ONNX graph with integers in it (QDQ form): what is done before, how they come in, what they reach.

Weights are symmetric int8, activations uint8 with a zero point or int8 without one. ONNX Runtime turns the form
into its integer kernels when it loads the file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.base.errors import NeuropruneError, UserError
from neuroprune.base.registry import nearest
from neuroprune.compression.layers import array_of, attribute, constants_of
from neuroprune.compression.ranges import Range, as_tensors_data
from neuroprune.export.slim import slim

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Operators that ONNX Runtime computes on integers, or that only move them. Around all others (layer norm, erf,
#: batch norm) integers would be converted forth and back for nothing.
INTEGER_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
    *("GlobalAveragePool", "AveragePool", "MaxPool", "Concat", "Split", "Resize"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze"),
)

#: Operators whose second input must be an integer too for an integer kernel to take them
_TWO_OPERANDS = {"Conv", "Gemm", "MatMul", "Add", "Mul"}

#: BitwiseAnd, which unpacks 4 bits; scales per channel came with 13
_OPSET = 18


def prepare(proto: ModelProto) -> ModelProto:
    """Fold batch norms that are still there, turn means over positions into pooling, name the nodes."""
    import onnx

    proto = at_least_opset(proto)
    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        with temporary_folder() as folder:
            proto = _fold(proto, folder)
    proto = onnx.shape_inference.infer_shapes(proto)
    _pool_means(proto)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    slim(proto, keep_names=True)  # the axes of those means are left over
    return onnx.shape_inference.infer_shapes(proto)


def at_least_opset(proto: ModelProto) -> ModelProto:
    """The model in the operators that this package writes, or in newer ones."""
    import onnx

    own = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=_OPSET)
    if own >= _OPSET:
        return proto
    converted: ModelProto = onnx.version_converter.convert_version(proto, _OPSET)
    return converted


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
    graph = proto.graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    constants = constants_of(proto)
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = {int(axis) % 4 for axis in array_of(constants[node.input[1]])}
        keeps = attribute(node, "keepdims", 1)
        if ranks.get(node.input[0]) == 4 and axes == {2, 3} and keeps:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def excluded(proto: ModelProto, exclude: Sequence[str]) -> list[str]:
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


def insert(
    proto: ModelProto,
    ranges: Mapping[str, Range],
    kept: Sequence[str],
    *,
    per_channel: bool,
    symmetric: bool,
    reduce_range: bool,
    overrides: Mapping[str, list[dict[str, Any]]],
) -> ModelProto:
    """A copy of ``proto`` with QuantizeLinear and DequantizeLinear around its integer operators.

    ``kept``: nodes that stay in float; ``symmetric``: activations are int8 around zero; ``overrides``: of single
    weights, as ONNX Runtime's quantiser takes them.
    """
    from onnxruntime import quantization as q

    copy = type(proto)()
    copy.CopyFrom(proto)
    quantizer = q.QDQQuantizer(
        copy,
        per_channel,
        reduce_range,
        q.QuantType.QInt8,
        q.QuantType.QInt8 if symmetric else q.QuantType.QUInt8,
        as_tensors_data(ranges),
        [],
        list(kept),
        list(INTEGER_OPERATORS),
        # The runtime quantises biases itself when it loads the file (1.22 and later): 4 bytes per
        # channel less, and no second scale to keep consistent.
        {"QuantizeBias": False, "ActivationSymmetric": symmetric, "TensorQuantOverrides": dict(overrides)},
    )
    with _quiet():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    return result


def census(proto: ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Operators that integers go into and come out of, and all others; what restores weights is left out."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    live = {value.name for value in proto.graph.input} - constants
    for node in proto.graph.node:  # in the order in which they run
        live |= set(node.output) if live & set(node.input) else set()
    nodes = [node for node in proto.graph.node if live & set(node.output)]
    from_integer = {out for n in proto.graph.node if n.op_type == "DequantizeLinear" for out in n.output}
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
def temporary_folder() -> Iterator[Path]:
    """Raises UserError where there can be none."""
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise _no_room(error) from error
    with folder as name:
        yield Path(name)


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"cannot write what quantising needs in passing: {error.strerror or error}",
        where=tempfile.gettempdir(),
        mend="free some space, or set TMPDIR to another folder",
    )


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """ONNX Runtime's quantiser raises whatever it meets in a network that it cannot take."""
    try:
        yield
    except NeuropruneError:
        raise
    except OSError as error:
        raise _no_room(error) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"ONNX Runtime cannot quantise this network: {lines[0] if lines else type(error).__name__}",
            mend="exclude the operator it names, or ship the fp32 file",
        ) from error
