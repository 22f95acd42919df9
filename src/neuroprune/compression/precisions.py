"""Smaller files without integer arithmetic: half precision; weights stored in few bits, computed as float32.

A stored weight is made float32 again by standard operators that ONNX Runtime folds into constants when it loads
the file: it runs exactly as fast as fp32, in as much memory. ``fp16`` has no kernels of its own on most CPUs: the
runtime converts to float32 and back, so it saves bytes and no time there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.registry import Registry
from neuroprune.compression.codebook import WORTH_PACKING, encode, unpacking_nodes
from neuroprune.compression.layers import (
    array_of,
    constants_of,
    layers_of,
    metadata_of,
    put_first,
    set_metadata,
)
from neuroprune.compression.qdq import at_least_opset
from neuroprune.compression.quantize import check_weights, load_onnx
from neuroprune.export.onnx import write_proto
from neuroprune.export.slim import slim

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: changes a graph in place, or returns another
Precision = Callable[["ModelProto"], "ModelProto"]

PRECISIONS: Registry[Precision] = Registry("precision")

#: smaller constants stay float32: a node that restores them would take more
_WORTH_STORING = 64


@dataclass(frozen=True)
class Stored:
    """``precision`` of the file, bytes before and after."""

    precision: str
    source_bytes: int
    target_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def store(source: Path, target: Path, precision: str) -> Stored:
    """Write the fp32 file ``source`` in another ``precision`` of the registry; metadata, inputs and outputs stay.

    >>> store(Path("model.onnx"), Path("model.stored.onnx"), "bf16-weights")              # doctest: +SKIP

    Raises UserError for an unknown precision, a file that is none, weights that are not finite or too large.
    """
    change = PRECISIONS.get(precision)
    proto = load_onnx(source)
    check_weights(proto)
    metadata = metadata_of(proto) | {"precision": precision}
    changed = change(at_least_opset(proto))
    set_metadata(changed, metadata)
    return Stored(precision, source.stat().st_size, write_proto(target, slim(changed)))


@PRECISIONS.register("fp16", summary="half precision throughout, float32 inputs and outputs", source="IEEE 754")
def fp16(proto: ModelProto) -> ModelProto:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _check_range(proto)
    changed: ModelProto = convert_float_to_float16(onnx.shape_inference.infer_shapes(proto), keep_io_types=True)
    return changed


@PRECISIONS.register("fp16-weights", summary="weights stored in half precision, computed as fp32")
def fp16_weights(proto: ModelProto) -> ModelProto:
    from onnx import TensorProto

    _check_range(proto)
    return _cast_on_load(proto, TensorProto.FLOAT16)


@PRECISIONS.register("bf16-weights", summary="weights stored in bfloat16 (fp32's range), computed as fp32")
def bf16_weights(proto: ModelProto) -> ModelProto:
    from onnx import TensorProto

    return _cast_on_load(proto, TensorProto.BFLOAT16)


@PRECISIONS.register(
    "int8-weights",
    summary="weights in int8 per output channel, computed as fp32",
    source="Krishnamoorthi 2018, 2.1",
)
def int8_weights(proto: ModelProto) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    def restore(name: str, weight: np.ndarray, scale: np.ndarray) -> tuple[list[TensorProto], list[NodeProto]]:
        integers = np.rint(weight / scale).astype(np.int8)
        parts = [numpy_helper.from_array(a, f"{name}.{n}") for n, a in (("integers", integers), ("scale", scale))]
        return parts, [
            helper.make_node("Cast", [f"{name}.integers"], [f"{name}.steps"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]),
        ]

    return _weights(proto, restore, _WORTH_STORING)


@PRECISIONS.register(
    "int4-weights",
    summary="16 values per weight tensor, a scale per output channel, computed as fp32",
    source="Han et al. 2016, Deep compression",
)
def int4_weights(proto: ModelProto) -> ModelProto:
    from onnx import helper, numpy_helper

    def restore(name: str, weight: np.ndarray, scale: np.ndarray) -> tuple[list[TensorProto], list[NodeProto]]:
        grid = f"{name}.grid"
        constants = encode(grid, weight / scale, scale, np.dtype(np.float32))[0]
        nodes = unpacking_nodes(grid, weight.size)
        return [*constants, numpy_helper.from_array(scale, f"{name}.scale")], [
            *nodes,
            helper.make_node("Mul", [grid, f"{name}.scale"], [name]),
        ]

    return _weights(proto, restore, WORTH_PACKING)


def _check_range(proto: ModelProto) -> None:
    top = float(np.finfo(np.float16).max)
    for tensor in proto.graph.initializer:
        array = array_of(tensor)
        if array.dtype == np.float32 and array.size and np.abs(array).max() > top:
            raise UserError(
                f"half precision ends at {top:.0f}, and a weight is larger",
                where=f"{tensor.name!r}",
                value=float(np.abs(array).max()),
                mend="take bf16-weights, which has float32's range",
            )


def _cast_on_load(proto: ModelProto, kind: int) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor in proto.graph.initializer:
        array = array_of(tensor)
        if array.dtype != np.float32 or array.size < _WORTH_STORING:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), f"{name}.stored"))
        nodes.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    put_first(proto, nodes)
    return proto


Restore = Callable[[str, np.ndarray, np.ndarray], "tuple[list[TensorProto], list[NodeProto]]"]


def _weights(proto: ModelProto, restore: Restore, least: int) -> ModelProto:
    """Each layer's weight by its scale per output channel (shaped to multiply it) and what ``restore`` makes."""
    constants = constants_of(proto)
    nodes: list[NodeProto] = []
    for layer in {layer.weight: layer for layer in layers_of(proto)}.values():
        weight = array_of(constants[layer.weight])
        if weight.dtype != np.float32 or weight.size < least:
            continue
        others = tuple(d for d in range(weight.ndim) if d != layer.axis)
        scale = np.abs(weight).max(others, keepdims=True) / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        parts, restoring = restore(layer.weight, weight, scale)
        proto.graph.initializer.remove(constants[layer.weight])
        proto.graph.initializer.extend(parts)
        nodes += restoring
    put_first(proto, nodes)
    return proto
