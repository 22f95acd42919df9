"""A cascade as one ONNX file: `If` nodes let the runtime itself decide, one example a call.

Inputs are those of the levels, and ``threshold``, which may be left out: its default is in the file. Outputs are
the scores of the level that answered, under their own name, ``level`` (its number) and ``confidence``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.export.onnx import write_proto

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

THRESHOLD, LEVEL, CONFIDENCE = "threshold", "level", "confidence"
_IR = 10


@dataclass(frozen=True)
class Rung:
    """One level of the path: its file, its number in the cascade, its temperature."""

    file: Path
    level: int
    temperature: float


def write_single_file(rungs: Sequence[Rung], threshold: float, target: Path) -> int:
    """Write the cascade of ``rungs``, the first one asked first, and return the file's bytes.

    Raises UserError where the files take different inputs or operators, and where one does not fit.
    """
    import onnx
    from onnx import helper, numpy_helper

    protos = [_inlined(onnx.load(rung.file)) for rung in rungs]
    _check_alike(protos, rungs)
    graph = _branch(protos, rungs, [protos[0].graph.output[0].name, LEVEL, CONFIDENCE])
    inputs = [_of_one(value) for value in protos[0].graph.input]
    limit = numpy_helper.from_array(np.array([threshold], dtype=np.float32), THRESHOLD)
    graph.input.extend([*inputs, helper.make_tensor_value_info(THRESHOLD, onnx.TensorProto.FLOAT, [1])])
    graph.initializer.append(limit)
    model = helper.make_model(
        graph, opset_imports=protos[0].opset_import, ir_version=max(_IR, *(p.ir_version for p in protos))
    )
    known = {p.key: p.value for p in protos[0].metadata_props} | {
        "batch": "1",
        "outputs": json.dumps({"tuple": ["tensor"] * 3}),
        "cascade": json.dumps(
            {"levels": [r.level for r in rungs], "temperatures": [r.temperature for r in rungs]}
        ),
    }
    for key, value in known.items():
        model.metadata_props.add(key=key, value=value)
    return write_proto(target, model)


def _branch(protos: Sequence[ModelProto], rungs: Sequence[Rung], own: Sequence[str]) -> GraphProto:
    """The first network, and where it is not sure enough the rest: a graph with three outputs called ``own``."""
    from onnx import helper

    rung, prefix = rungs[0], f"level{rungs[0].level}/"
    graph, scores = _renamed(protos[0].graph, prefix)
    nodes, initializers = [*graph.node], [*graph.initializer]
    nodes += _confidence(scores, prefix, rung.temperature, initializers)
    answer = [scores, f"{prefix}number", f"{prefix}guarded"]
    initializers.append(_tensor(np.array([rung.level], dtype=np.int64), answer[1]))
    outputs = _outputs(protos[0].graph, own)
    if len(rungs) == 1:
        nodes += _copies(answer, own)
        return helper.make_graph(nodes, prefix, [], outputs, initializers)
    then, other = ([f"{prefix}{branch}/{name}" for name in own] for branch in ("then", "else"))
    branches = {
        "then_branch": helper.make_graph(
            _copies(answer, then), f"{prefix}then", [], _outputs(protos[0].graph, then)
        ),
        "else_branch": _branch(protos[1:], rungs[1:], other),
    }
    nodes.append(helper.make_node("GreaterOrEqual", [answer[2], THRESHOLD], [f"{prefix}sure"]))
    nodes.append(helper.make_node("If", [f"{prefix}sure"], own, **branches))
    return helper.make_graph(nodes, prefix, [], outputs, initializers)


def _confidence(scores: str, prefix: str, temperature: float, initializers: list) -> list[NodeProto]:  # type: ignore[type-arg]
    """Largest softmax probability over the temperature; NaN where a score is not finite.

    The runtime's softmax and maximum may swallow NaN, so nought times the sum of the scores is added.
    """
    from onnx import helper

    t, zero, axis, conf = (f"{prefix}{name}" for name in ("temperature", "zero", "axis", "guarded"))
    initializers += [
        _tensor(np.array(temperature, dtype=np.float32), t), _tensor(np.array(0, dtype=np.float32), zero),
        _tensor(np.array([1], dtype=np.int64), axis),
    ]  # fmt: skip
    scaled, soft, top, total, guard = (f"{prefix}{name}" for name in ("scaled", "soft", "top", "total", "guard"))
    return [
        helper.make_node("Div", [scores, t], [scaled]),
        helper.make_node("Softmax", [scaled], [soft], axis=1),
        helper.make_node("ReduceMax", [soft, axis], [top], keepdims=0),
        helper.make_node("ReduceSum", [scores, axis], [total], keepdims=0),
        helper.make_node("Mul", [total, zero], [guard]),
        helper.make_node("Add", [top, guard], [conf]),
    ]


def _tensor(value: np.ndarray, name: str):  # type: ignore[no-untyped-def]
    from onnx import numpy_helper

    return numpy_helper.from_array(value, name)


def _copies(names: Sequence[str], to: Sequence[str]) -> list[NodeProto]:
    from onnx import helper

    return [helper.make_node("Identity", [a], [b]) for a, b in zip(names, to, strict=True)]


def _outputs(graph: GraphProto, names: Sequence[str]) -> list[ValueInfoProto]:
    """Scores [1, classes], level [1], confidence [1] under ``names``."""
    from onnx import TensorProto, helper

    scores = _of_one(graph.output[0])
    scores.name = names[0]
    return [
        scores,
        helper.make_tensor_value_info(names[1], TensorProto.INT64, [1]),
        helper.make_tensor_value_info(names[2], TensorProto.FLOAT, [1]),
    ]


def _of_one(value: ValueInfoProto) -> ValueInfoProto:
    """A copy that takes one example."""
    from onnx import ValueInfoProto

    found = ValueInfoProto()
    found.CopyFrom(value)
    dims = found.type.tensor_type.shape.dim
    if dims:
        dims[0].dim_value = 1
    return found


def _renamed(graph: GraphProto, prefix: str) -> tuple[GraphProto, str]:
    """A copy in which everything but the inputs is called ``prefix`` + its name, and the name of its scores."""
    from onnx import GraphProto

    found = GraphProto()
    found.CopyFrom(graph)
    inputs = {value.name for value in graph.input}
    _rename(found, {name: f"{prefix}{name}" for name in _defined(found) if name not in inputs})
    return found, f"{prefix}{graph.output[0].name}" if graph.output[0].name not in inputs else graph.output[0].name


def _defined(graph: GraphProto) -> Iterator[str]:
    """Names of all values that the graph and the graphs within make."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from (name for name in node.output if name)
        for inner in _within(node):
            yield from (value.name for value in inner.input)
            yield from _defined(inner)


def _within(node: NodeProto) -> list[GraphProto]:
    return [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else [*one.graphs])]


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _within(node):
            for value in (*inner.input, *inner.output):
                value.name = names.get(value.name, value.name)
            _rename(inner, names)


def _inlined(proto: ModelProto) -> ModelProto:
    """Without functions of its own: those of two files may have the same name."""
    if not proto.functions:
        return proto
    from onnx import inliner

    inlined: ModelProto = inliner.inline_local_functions(proto)
    return inlined


def _check_alike(protos: Sequence[ModelProto], rungs: Sequence[Rung]) -> None:
    first = protos[0]
    taken = {value.name for value in (*first.graph.input, *first.graph.output)} & {THRESHOLD, LEVEL, CONFIDENCE}
    if taken:
        raise UserError(
            "the network has an input or output of a name that the cascade needs for itself",
            value=", ".join(sorted(taken)),
            mend="rename it in the network's forward",
        )
    for proto, rung in zip(protos, rungs, strict=True):
        for what in ("inputs", "operators"):
            if _taken(first)[what] != _taken(proto)[what]:
                raise UserError(
                    f"the levels' files take different {what}",
                    where=f"{rungs[0].file.name} and {rung.file.name}",
                    mend="export all levels with the same version of neuroprune",
                )


def _taken(proto: ModelProto) -> dict[str, object]:
    versions = {one.domain: one.version for one in proto.opset_import}
    return {"inputs": [value.SerializeToString() for value in proto.graph.input], "operators": versions}
