"""The weights as a file holds them: bytes stored, and the distinct values that the runtime multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroprune.compression.layers import array_of, constants_of, nodes_for

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
    constants, found = constants_of(model), []
    for node in model.graph.node:
        names = [node.input[place] for place in _WEIGHTS.get(node.op_type, ()) if place < len(node.input)]
        parts = [_Constant.of(model, constants, name) for name in names]
        known = [part for part in parts if part is not None]
        if known and len(known) == len(parts):
            values, numbers = (_in_a_row([each[i] for each in map(_Constant.both, known)]) for i in (0, 1))
            found.append(FileWeights(node.op_type, sum(part.stored_bytes for part in known), values, numbers))
    return found


def _in_a_row(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])


@dataclass(frozen=True)
class _Constant:
    """What a file computes as ``name`` from the ``stored`` constants alone, by ``nodes``."""

    model: ModelProto
    name: str
    nodes: list[NodeProto]
    stored: list[TensorProto]

    @classmethod
    def of(cls, model: ModelProto, constants: dict[str, TensorProto], name: str) -> _Constant | None:
        """None where the model's inputs take part."""
        nodes = [] if name in constants else nodes_for(model, name)
        made = {output for node in nodes for output in node.output}
        used = {one for node in nodes for one in node.input if one} - made if nodes else {name}
        if not used <= set(constants):
            return None
        return cls(model, name, nodes, [tensor for key, tensor in constants.items() if key in used])

    @property
    def stored_bytes(self) -> int:
        return sum(array_of(tensor).nbytes for tensor in self.stored)

    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """The values, and the numbers before a scale is applied to them (the same where none is)."""
        if not self.nodes:
            value = array_of(self.stored[0])
            return value, value
        from onnx import ValueInfoProto, helper
        from onnx.reference import ReferenceEvaluator

        last = self.nodes[-1]
        before = last.input[0] if last.op_type == "DequantizeLinear" else self.name
        held = {tensor.name: tensor for tensor in self.stored}
        wanted = [self.name] if before in held else [self.name, before]
        outputs = [ValueInfoProto(name=name) for name in dict.fromkeys(wanted)]
        graph = helper.make_graph(self.nodes, "weights", [], outputs, self.stored)
        opsets, version = self.model.opset_import, self.model.ir_version
        part = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        found = [np.asarray(value) for value in ReferenceEvaluator(part).run(None, {})]
        return found[0], array_of(held[before]) if before in held else found[-1]


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
