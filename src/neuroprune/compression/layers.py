"""The layers of an ONNX graph: operators with a constant weight matrix or kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


@dataclass(frozen=True)
class Layer:
    """``axis``: of the output channels in the weight. ``name``: the module's where the file kept it, else the
    node's. ``bias``: the constant's name, None where there is none."""

    node: str
    operator: str
    weight: str
    bias: str | None
    axis: int
    name: str


def layers_of(proto: ModelProto) -> list[Layer]:
    """Convolutions, Gemm and MatMul with a constant second operand, in the order of the graph."""
    constants = constants_of(proto)
    return [found for node in proto.graph.node if (found := _layer(node, constants)) is not None]


def constants_of(proto: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def _layer(node: NodeProto, constants: dict[str, TensorProto]) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
        return None
    weight = node.input[1]
    rank = len(constants[weight].dims)
    if rank < 2 or node.input[0] in constants:
        return None
    by_rows = node.op_type == "Conv" or attribute(node, "transB", 0) == 1
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else None
    owner, _, kind = weight.rpartition(".")
    name = owner if kind == "weight" and owner else node.name
    return Layer(node.name, node.op_type, weight, bias, 0 if by_rows else rank - 1, name)


def nodes_for(proto: ModelProto, name: str) -> list[NodeProto]:
    """The nodes that ``name`` is computed by, in the order of the graph (which is that of computing)."""
    needed, found = {name}, []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            found.append(node)
            needed.update(node.input)
    return found[::-1]


def metadata_of(proto: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def set_metadata(proto: ModelProto, metadata: Mapping[str, str]) -> None:
    """Exactly these."""
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def put_first(proto: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Before all others, in their order: they compute from constants."""
    for position, node in enumerate(nodes):
        proto.graph.node.insert(position, node)


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of ``node``."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def array_of(tensor: TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def put(tensor: TensorProto, value: np.ndarray) -> None:
    """Replace the constant's value, in its own type."""
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, array_of(tensor).dtype), tensor.name))
