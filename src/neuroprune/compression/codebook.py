"""Four bits per weight on disk, integer kernels at full speed in memory.

Each int8 weight tensor is replaced by 16 values of its own (k-means, so they lie where the weights are; Han et al.
2016, "Deep compression") and packed indices, two per byte. A few standard ONNX operators unpack them; ONNX Runtime
folds these into constants when it loads the file, so that what runs is the int8 network with 16 values per tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroprune.compression.kmeans import kmeans_1d
from neuroprune.compression.layers import array_of, attribute, constants_of, put_first

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LEVELS = 16
#: smaller tensors would grow: unpacking takes six nodes and a code book
WORTH_PACKING = 512


def pack_weights(proto: ModelProto, only: Sequence[str] | None = None) -> dict[str, float]:
    """Pack every int8 weight tensor of a QDQ graph in place, or those called ``only``.

    Returns, per packed tensor, the root of the mean squared change of its weights over that of the weights
    themselves. Scales per channel stay as they are; squared errors are weighted by them.
    """
    graph, constants = proto.graph, constants_of(proto)
    errors: dict[str, float] = {}
    unpacking: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        name = node.input[0]
        if only is not None and name not in only:
            continue
        weight = array_of(constants[name])
        if name in errors or weight.dtype != np.int8 or weight.size < WORTH_PACKING:
            continue
        scale = _broadcast(node, array_of(constants[node.input[1]]), weight.ndim)
        parts, errors[name] = encode(name, weight, scale, np.dtype(np.int8))
        graph.initializer.remove(constants[name])
        graph.initializer.extend(parts)
        unpacking += unpacking_nodes(name, weight.size)
    put_first(proto, unpacking)
    return errors


def _broadcast(node: NodeProto, scale: np.ndarray, rank: int) -> np.ndarray:
    """The scale in a shape that multiplies the weight: [1, ..., channels, ..., 1]."""
    if scale.ndim == 0:
        return scale
    axis = attribute(node, "axis", 1)
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def encode(
    name: str, weight: np.ndarray, scale: np.ndarray, kind: np.dtype[Any]
) -> tuple[list[TensorProto], float]:
    """The constants that `unpacking_nodes` makes ``name`` of, and the relative error.

    ``scale``: what multiplies ``weight`` afterwards, and weights its errors. ``kind``: of the 16 values; integers
    are rounded.
    """
    importance = np.broadcast_to(scale.astype(np.float64) ** 2, weight.shape)
    centroids = kmeans_1d(weight, LEVELS, importance)
    if kind.kind == "i":
        centroids = np.unique(np.rint(centroids))
    codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weight.ravel())
    book = np.pad(centroids, (0, LEVELS - len(centroids)), mode="edge").astype(kind)
    change = (book[codes].reshape(weight.shape) - weight.astype(np.float64)) ** 2 * importance
    power = (weight.astype(np.float64) ** 2 * importance).sum()
    error = float(np.sqrt(change.sum() / power)) if power else 0.0
    return list(_constants(name, book, codes.astype(np.uint8), weight.shape)), error


def _constants(name: str, book: np.ndarray, codes: np.ndarray, shape: tuple[int, ...]) -> Iterator[TensorProto]:
    from onnx import numpy_helper

    even = np.append(codes, np.uint8(0)) if codes.size % 2 else codes
    half = even.size // 2  # the first half of the codes lies in the low bits, the second in the high bits
    arrays = {
        "packed": even[:half] | (even[half:] << 4),
        "book": book,
        "shape": np.array(shape, np.int64),
        "mask": np.array(15, np.uint8),
        "four": np.array(4, np.uint8),
    }
    if codes.size % 2:
        arrays |= {"start": np.zeros(1, np.int64), "end": np.array([codes.size], np.int64)}
    for part, array in arrays.items():
        yield numpy_helper.from_array(array, f"{name}.{part}")


def unpacking_nodes(name: str, size: int) -> list[NodeProto]:
    """packed uint8 [n/2] -> codes uint8 [n] -> int8 in the weight's shape."""
    from onnx import TensorProto, helper

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        out = f"{name}.{output}" if output else name
        return helper.make_node(operator, [f"{name}.{i}" for i in inputs], [out], **attributes)

    nodes = [
        node("BitwiseAnd", ["packed", "mask"], "low"),
        node("BitShift", ["packed", "four"], "high", direction="RIGHT"),
        node("Concat", ["low", "high"], "codes", axis=0),
        node("Cast", ["codes"], "indices", to=TensorProto.INT32),
        node("Gather", ["book", "indices"], "values"),
    ]
    if size % 2:
        nodes.append(node("Slice", ["values", "start", "end"], "exact"))
    nodes.append(node("Reshape", ["exact" if size % 2 else "values", "shape"], ""))
    return nodes
