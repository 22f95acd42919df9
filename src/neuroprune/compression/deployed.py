"""The weights as a file holds them: bytes stored, and the distinct values that the runtime multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: operators with weights, and which of their inputs those are
_WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits"), (1,)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2)),
}


@dataclass(frozen=True)
class FileWeights:
    """Of one layer of a file. ``stored_bytes``: of all constants they are computed from; ``values``: what they are
    when the network runs, scales applied; ``numbers``: before that, integers in an int8 file. A recurrent layer's
    two matrices stand in a row."""

    operator: str
    stored_bytes: int
    values: np.ndarray
    numbers: np.ndarray


def file_weights(path: Path) -> list[FileWeights]:
    """In the order in which the file computes; what is computed from inputs (attention's products) is left out."""
    import onnx

    model = onnx.load(path)
    constants = _Constants(model)
    found = []
    for node in model.graph.node:
        names = [node.input[place] for place in _WEIGHTS.get(node.op_type, ()) if place < len(node.input)]
        if names and all(constants.needed(name) is not None for name in names):
            values = _in_a_row([constants.value(name) for name in names])
            numbers = _in_a_row([constants.value(constants.before_scaling(name)) for name in names])
            found.append(FileWeights(node.op_type, sum(map(constants.stored_bytes, names)), values, numbers))
    return found


def _in_a_row(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])


class _Constants:
    """What of a model can be computed without its inputs."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {output: node for node in model.graph.node for output in node.output}

    def needed(self, name: str) -> list[NodeProto] | None:
        """The nodes that compute ``name`` from constants alone, in the file's order; None: from inputs too."""
        wanted, todo = set[int](), [name]
        while todo:
            one = todo.pop()
            if one in self.tensors or not one:
                continue
            if one not in self.makers:
                return None
            node = self.makers[one]
            if id(node) not in wanted:
                wanted.add(id(node))
                todo += node.input
        return [node for node in self.makers.values() if id(node) in wanted]

    def before_scaling(self, name: str) -> str:
        maker = self.makers.get(name)
        return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name

    def value(self, name: str) -> np.ndarray:
        from onnx import ValueInfoProto, helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        if name in self.tensors:
            return numpy_helper.to_array(self.tensors[name])
        nodes = self.needed(name) or []
        graph = helper.make_graph(nodes, "weights", [], [ValueInfoProto(name=name)], self._used(name))
        opsets, version = self.model.opset_import, self.model.ir_version
        part = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        (values,) = ReferenceEvaluator(part).run(None, {})
        return np.asarray(values)

    def stored_bytes(self, name: str) -> int:
        from onnx import numpy_helper

        return sum(numpy_helper.to_array(tensor).nbytes for tensor in self._used(name))

    def _used(self, name: str) -> list[TensorProto]:
        used = {name, *(one for node in self.needed(name) or [] for one in node.input)}
        return [tensor for key, tensor in self.tensors.items() if key in used]


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
