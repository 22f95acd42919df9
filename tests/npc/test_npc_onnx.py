"""ONNX files as model.npc: the same bytes, the same outputs, 4-bit weights in their own shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import neuroprune
from neuroprune.base.errors import UserError
from neuroprune.compression.codebook import pack_weights


def conv_file(path: Path, bits: int) -> Path:
    """One convolution, 13 to 25 channels, with weights in 32, 8 or 4 bits (an odd number of them: 3,575)."""
    draw = np.random.default_rng(0)
    weights = (draw.normal(size=(25, 13, 11, 1)) * np.exp(draw.normal(size=(25, 1, 1, 1)))).astype(np.float32)
    scale = (np.abs(weights).max((1, 2, 3)) / 127).astype(np.float32)
    constants = {"w": weights}
    nodes = [helper.make_node("Conv", ["x", "w" if bits == 32 else "d"], ["y"])]
    if bits < 32:
        constants = {"w": np.rint(weights / scale.reshape(-1, 1, 1, 1)).astype(np.int8), "s": scale}
        nodes.insert(0, helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if bits == 4:
        pack_weights(proto)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(("bits", "codec"), [(32, "planes"), (8, "levels"), (4, "nibbles")])
def test_the_same_bytes_and_the_same_outputs(bits: int, codec: str, tmp_path: Path) -> None:
    source = conv_file(tmp_path / "conv.onnx", bits)
    report = neuroprune.pack(source, tmp_path / "conv.npc")
    assert report.codecs == {codec: 1}
    assert report.ratio > 1.02
    neuroprune.unpack(tmp_path / "conv.npc", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == source.read_bytes()
    feed = {"x": np.random.default_rng(1).normal(size=(2, 13, 12, 3)).astype(np.float32)}
    before, after = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for path in (source, tmp_path / "again.onnx")
    )
    assert before.shape == (2, 25, 2, 3)
    assert np.array_equal(before, after)
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    ((name, array),) = neuroprune.coded_tensors(tmp_path / "conv.npc")
    assert np.array_equal(array, kept[name])


def test_tensors_in_other_files_are_refused(tmp_path: Path) -> None:
    proto = onnx.load(conv_file(tmp_path / "conv.onnx", 32))
    onnx.save(proto, tmp_path / "split.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    with pytest.raises(UserError, match="keeps its tensors in other files") as caught:
        neuroprune.pack(tmp_path / "split.onnx", tmp_path / "m.npc")
    assert "w.bin" in str(caught.value)


def test_values_kept_as_numbers_and_types_that_numpy_lacks(tmp_path: Path) -> None:
    """Floats in float_data stay in the skeleton; 4-bit integers are bytes without a shape of their own."""
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, [300], np.arange(300.0))
    halves = helper.make_tensor("halves", TensorProto.INT4, [800], np.zeros(800))
    halves.ClearField("int32_data")
    halves.raw_data = (np.arange(400) % 7 | (np.arange(400) % 3 << 4)).astype(np.uint8).tobytes()
    source = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [numbers, halves])), source)
    neuroprune.pack(source, tmp_path / "odd.npc")
    neuroprune.unpack(tmp_path / "odd.npc", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == source.read_bytes()
    found = [(name, array.dtype, array.shape) for name, array in neuroprune.coded_tensors(tmp_path / "odd.npc")]
    assert found == [("halves", np.uint8, (400,))]


def test_equal_tensors_and_tensors_inside_others_are_put_back_where_they_were(tmp_path: Path) -> None:
    """Where the same bytes stand several times, any place is right: what is rebuilt is the same."""
    one = np.random.default_rng(0).integers(-9, 9, 400).astype(np.int8)
    arrays = [one, one, np.tile(one, 2), one[100:300], np.zeros(256, np.int8), np.zeros(512, np.int8)]
    initializers = [numpy_helper.from_array(array, f"t{i}") for i, array in enumerate(arrays)]
    source = tmp_path / "twice.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], initializers)), source)
    neuroprune.pack(source, tmp_path / "twice.npc")
    neuroprune.unpack(tmp_path / "twice.npc", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == source.read_bytes()
    found = list(neuroprune.coded_tensors(tmp_path / "twice.npc"))
    assert [name for name, _ in found] == [f"t{i}" for i in range(6)]
    assert all(np.array_equal(array, arrays[i]) for i, (_, array) in enumerate(found))
