"""Slimming changes no arithmetic: same outputs, bit for bit, on graphs written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neuroprune.export.slim import _short, slim


def _run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in found.run(None, {"a": x})]


def _value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "main",
        [_value("a", "n", 2, 5, 5)],
        [_value(name, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[_value("hidden.value", "n", 3, 5, 5)],
    )
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.doc_string = "written by a test"
    return model


def _convolution(**attributes: object) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node(
            "Conv", ["a", "layer.weight", "layer.bias"], ["hidden.value"], name="node_conv", **attributes
        ),
        helper.make_node("Add", ["hidden.value", "same.bias"], ["b"], name="node_add"),
    ]
    nodes[0].metadata_props.add(key="stack", value="line " * 200)
    bias = rng.normal(size=(3, 1, 1)).astype(np.float32)
    constants = {
        "layer.weight": rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "layer.bias": rng.normal(size=3).astype(np.float32),
        "same.bias": bias,
        "unused": bias,
    }
    return _model(nodes, constants, ["b"])


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from(["NOTSET", "VALID"]),
)
def test_default_attributes_go_and_the_others_stay(stride: int, dilation: int, pad: int, auto_pad: str) -> None:
    attributes: dict[str, object] = {"strides": [stride] * 2, "dilations": [dilation] * 2, "group": 1}
    if auto_pad == "NOTSET":
        attributes["pads"] = [pad] * 4
    model = _convolution(auto_pad=auto_pad, **attributes)
    x = np.random.default_rng(1).normal(size=(2, 2, 5, 5)).astype(np.float32)
    before = _run(model, x)
    slimmed = slim(model)
    assert np.array_equal(before[0], _run(slimmed, x)[0])
    left = {a.name for a in slimmed.graph.node[0].attribute}
    assert ("strides" in left) == (stride != 1)
    assert ("dilations" in left) == (dilation != 1)
    assert ("auto_pad" in left) == (auto_pad != "NOTSET")
    assert "group" not in left


def test_notes_names_and_repeats_go() -> None:
    model = _convolution()
    before = model.ByteSize()
    slimmed = slim(model)
    assert slimmed.ByteSize() < before - 1000
    assert not slimmed.doc_string
    assert not slimmed.graph.value_info
    assert len(slimmed.graph.initializer) == 3  # the unused one went
    assert all(len(t.name) <= 2 for t in slimmed.graph.initializer)


def test_inputs_and_outputs_keep_names_that_short_names_would_take() -> None:
    """The graph's own ``a`` and ``b`` are what the first short names would be."""
    model = slim(_convolution())
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["a", "b"]
    names = [t.name for t in model.graph.initializer] + [o for n in model.graph.node for o in n.output]
    assert len(set(names)) == len(names)
    assert "a" not in names


def test_equal_constants_are_shared_but_not_across_types_or_shapes() -> None:
    zeros = {
        "z1": np.zeros(2, np.float32),
        "z2": np.zeros(2, np.float32),
        "z3": np.zeros((2, 1), np.float32),
        "z4": np.zeros(2, np.float64),
        "scale": np.ones(2, np.float32),
    }
    reads = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in zeros]
    model = slim(_model(reads, zeros, [f"out_{name}" for name in zeros if name != "z4"]))
    assert len(model.graph.initializer) == 4


def test_a_constant_that_is_an_output_stays() -> None:
    constants = {"b": np.ones(2, np.float32), "twin": np.ones(2, np.float32)}
    model = slim(_model([helper.make_node("Identity", ["twin"], ["c"])], constants, ["b", "c"]))
    outputs = _run(model, np.zeros((1, 2, 5, 5), np.float32))
    assert [list(y) for y in outputs] == [[1, 1], [1, 1]]


def test_nested_graphs_keep_their_names() -> None:
    then = helper.make_graph(
        [helper.make_node("Mul", ["a", "outer.scale"], ["t"])], "then", [], [_value("t", None)]
    )
    other = helper.make_graph([helper.make_node("Identity", ["a"], ["o"])], "else", [], [_value("o", None)])
    for graph in (then, other):
        graph.output[0].type.tensor_type.ClearField("shape")
    constants = {"flag": np.array(True), "outer.scale": np.full(1, 3, np.float32)}
    node = helper.make_node("If", ["flag"], ["b"], then_branch=then, else_branch=other)
    x = np.ones((1, 2, 5, 5), np.float32)
    assert np.array_equal(_run(slim(_model([node], constants, ["b"])), x)[0], 3 * x)


@pytest.mark.parametrize("count", [4000])
def test_short_names_are_distinct_and_short(count: int) -> None:
    names = [_short(i) for i in range(count)]
    assert len(set(names)) == count
    assert max(map(len, names)) == 3
    assert names[:2] == ["a", "b"]
    assert names[62] == "aa"
