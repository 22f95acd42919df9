"""Take out of an ONNX file what no runtime reads: notes, default attributes, long names, repeated constants.

The arithmetic stays as it is, bit for bit. A file of a small network shrinks by up to a third: the exporter
writes about 1 KB of notes per node.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

_DIGITS = string.ascii_letters + string.digits
#: attributes whose default depends on the rank, which the schema therefore does not list
_ONES = {"strides", "dilations"}
_WINDOWED = {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}


def slim(model: ModelProto, *, keep_names: bool = False) -> ModelProto:
    """Slim ``model`` in place and return it; names of inputs and outputs and the model's metadata stay.

    ``keep_names`` keeps the names of constants (a network's parameters) and nodes. Graphs with nested graphs
    (If, Loop) keep all names, because inner graphs see the outer ones.
    """
    graph = model.graph
    versions = {opset.domain: opset.version for opset in model.opset_import}
    _drop_notes(model, keep_names)
    for node in graph.node:
        _drop_defaults(node, versions)
    if any(attribute.HasField("g") or attribute.graphs for n in graph.node for attribute in n.attribute):
        return model
    _share_constants(graph)
    _drop_unused(graph)
    _shorten_names(graph, {i.name for i in graph.initializer} if keep_names else set())
    return model


def _drop_notes(model: ModelProto, keep_names: bool) -> None:
    graph = model.graph
    model.ClearField("doc_string")
    for field in ("doc_string", "metadata_props", "value_info"):
        graph.ClearField(field)
    nodes = [node for owner in (graph, *model.functions) for node in owner.node]
    for thing in (*nodes, *graph.input, *graph.output, *graph.initializer):
        thing.ClearField("doc_string")
        thing.ClearField("metadata_props")
    if not keep_names:
        for node in graph.node:
            node.ClearField("name")


def _drop_defaults(node: NodeProto, versions: dict[str, int]) -> None:
    """Remove the attributes that say what the operator does anyway."""
    from onnx import defs

    try:
        schema = defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except defs.SchemaError:  # an operator that onnx does not know: leave it alone
        return
    for attribute in list(node.attribute):
        known = schema.attributes.get(attribute.name)
        if (known is not None and _same(attribute, known.default_value)) or _is_ones(node, attribute):
            node.attribute.remove(attribute)


def _same(attribute: AttributeProto, default: AttributeProto) -> bool:
    left, right = type(attribute)(), type(attribute)()
    left.CopyFrom(attribute)
    right.CopyFrom(default)
    for side in (left, right):
        side.ClearField("name")
        side.ClearField("doc_string")
    return bool(default.name) and left == right


def _is_ones(node: NodeProto, attribute: AttributeProto) -> bool:
    windowed = node.op_type in _WINDOWED and attribute.name in _ONES
    return windowed and all(value == 1 for value in attribute.ints)


def _share_constants(graph: GraphProto) -> None:
    """Equal constants (quantisation scales, zero points, axes) are written once."""
    fixed = _outside(graph)
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in list(graph.initializer):
        if tensor.name in fixed:
            continue
        known = first.setdefault(_digest(tensor), tensor.name)
        if known != tensor.name:
            same[tensor.name] = known
            graph.initializer.remove(tensor)
    _rename_inputs(graph.node, same)


def _digest(tensor: TensorProto) -> bytes:
    plain = type(tensor)()
    plain.CopyFrom(tensor)
    plain.ClearField("name")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | _outside(graph)
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def _shorten_names(graph: GraphProto, kept: set[str]) -> None:
    """One to three characters per value: the often used ones first."""
    kept = kept | _outside(graph)
    uses: dict[str, int] = {}
    for name in (x for node in graph.node for x in (*node.input, *node.output)):
        if name and name not in kept:
            uses[name] = uses.get(name, 0) + 1
    fresh = (short for short in map(_short, range(len(uses) + len(kept) + 1)) if short not in kept)
    new = dict(zip(sorted(uses, key=lambda name: -uses[name]), fresh, strict=False))
    _rename_inputs(graph.node, new)
    for node in graph.node:
        for position, name in enumerate(node.output):
            node.output[position] = new.get(name, name)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)


def _rename_inputs(nodes: Iterable[NodeProto], new: dict[str, str]) -> None:
    for node in nodes:
        for position, name in enumerate(node.input):
            if name in new:
                node.input[position] = new[name]


def _outside(graph: GraphProto) -> set[str]:
    """Names that the outside world uses."""
    return {value.name for value in (*graph.input, *graph.output)}


def _short(index: int) -> str:
    text = ""
    while True:
        index, digit = divmod(index, len(_DIGITS))
        text = _DIGITS[digit] + text
        if index == 0:
            return text
        index -= 1
