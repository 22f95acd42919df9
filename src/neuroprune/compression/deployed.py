"""The weights as a file holds them: bytes stored, and the distinct values that the runtime multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

#: operators with weights, and which of their inputs those are
_WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits"), (1,)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2)),
}


@dataclass(frozen=True)
class FileWeights:
    """Of one layer of a file. ``stored_bytes``: of all constants they are computed from; ``values``: what they are
    when the network runs, scales applied (a recurrent layer's two matrices in a row)."""

    operator: str
    stored_bytes: int
    values: np.ndarray


def file_weights(path: Path) -> list[FileWeights]:
    """In the order in which the file computes; what is computed from inputs (attention's products) is left out."""
    import onnx

    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        names = [node.input[place] for place in _WEIGHTS.get(node.op_type, ()) if place < len(node.input)]
        needed = [_closure(name, makers, model.graph) for name in names]
        if names and None not in needed:
            parts = [_evaluated(name, nodes or [], model) for name, nodes in zip(names, needed, strict=True)]
            values = [part for _, part in parts]
            whole = values[0] if len(values) == 1 else np.concatenate([part.ravel() for part in values])
            found.append(FileWeights(node.op_type, sum(stored for stored, _ in parts), whole))
    return found


def _closure(name: str, makers: dict[str, NodeProto], graph: GraphProto) -> list[NodeProto] | None:
    """The nodes that compute ``name`` from constants alone, in the file's order; None where there are inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    wanted, todo = set[int](), [name]
    while todo:
        one = todo.pop()
        if one in constants or not one:
            continue
        if one not in makers:
            return None
        node = makers[one]
        if id(node) not in wanted:
            wanted.add(id(node))
            todo += node.input
    return [node for node in graph.node if id(node) in wanted]


def _evaluated(name: str, nodes: Sequence[NodeProto], model: Any) -> tuple[int, np.ndarray]:
    from onnx import ValueInfoProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    used = {name, *(one for node in nodes for one in node.input)}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    stored = sum(numpy_helper.to_array(tensor).nbytes for tensor in constants)
    if not nodes:
        return stored, numpy_helper.to_array(constants[0])
    graph = helper.make_graph(nodes, "weights", [], [ValueInfoProto(name=name)], constants)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    (values,) = ReferenceEvaluator(part).run(None, {})
    return stored, np.asarray(values)


def in_order_of(first: Sequence[FileWeights], second: Sequence[FileWeights]) -> list[FileWeights] | None:
    """``second``, the same network in another file, in the order of ``first``: the tools that write files sort the
    branches of a network each in its own way. Layers of one shape go to the nearest values; None: no match."""
    left, found = list(second), []
    for one in first:
        alike = [other for other in left if other.values.shape == one.values.shape]
        if not alike:
            return None
        best = min(alike, key=lambda other: float(np.square(other.values - one.values).sum()))
        left = [other for other in left if other is not best]
        found.append(best)
    return found


def distinct(tensors: Sequence[np.ndarray]) -> int:
    """Different values in all of them together."""
    return len(np.unique(np.concatenate([np.unique(tensor) for tensor in tensors]))) if tensors else 0


def plain_int8(weights: np.ndarray) -> np.ndarray:
    """One symmetric scale for the tensor, largest magnitude to 127: the values that 8 bits alone would leave."""
    largest = float(np.abs(weights).max(initial=0.0))
    scale = np.float32(largest / 127 or 1.0)
    rounded = np.clip(np.rint(weights / scale), -127, 127).astype(np.float32)
    found: np.ndarray = rounded * scale
    return found
