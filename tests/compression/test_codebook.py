"""Four-bit storage: what is unpacked at load is exactly the code book's value for every weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from compression.exported import Exported, X
from onnx import TensorProto, helper, numpy_helper

from neuroprune.base.errors import UserError
from neuroprune.compression.codebook import pack_weights
from neuroprune.compression.precisions import store
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.export.compare import compare_outputs

ONNX = EXPORTS.get("onnx")


def dequantized(weight: np.ndarray, scale: np.ndarray, axis: int | None) -> onnx.ModelProto:
    """A graph that only dequantises a constant: y = scale * weight."""
    zero = np.zeros(scale.shape, np.int8)
    constants = {"w": weight, "s": scale.astype(np.float32), "z": zero}
    attributes = {} if axis is None else {"axis": axis}
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], **attributes)],
        "main",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, weight.shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def value_of(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])


def weights(shape: tuple[int, ...], levels: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.choice(np.arange(-127, 128), levels, replace=False)
    return rng.choice(values, shape).astype(np.int8)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (13, 5, 3, 3), (33, 17), (1, 513)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_sixteen_values_come_back_exactly(shape: tuple[int, ...], axis: int | None) -> None:
    weight = weights(shape, 16)
    scale = np.float32(0.5) if axis is None else np.linspace(0.1, 2, shape[axis]).astype(np.float32)
    model = dequantized(weight, np.asarray(scale), axis)
    before = value_of(model)
    size = model.ByteSize()
    assert pack_weights(model) == {"w": 0.0}
    assert np.array_equal(value_of(model), before)
    assert model.ByteSize() < size - weight.size // 2 + 700


def test_more_values_are_rounded_to_the_nearest_of_sixteen_good_ones() -> None:
    weight = np.clip(np.random.default_rng(0).normal(size=(40, 50)) * 40, -127, 127).round().astype(np.int8)
    model = dequantized(weight, np.float32(1.0), None)
    error = pack_weights(model)["w"]
    found = value_of(model)
    levels = np.unique(found)
    assert len(levels) <= 16
    nearest = np.abs(weight.astype(float)[..., None] - levels).min(-1)
    assert np.array_equal(np.abs(found - weight), nearest)
    assert error == pytest.approx(np.linalg.norm(found - weight) / np.linalg.norm(weight.astype(float)))
    uniform = np.clip(np.round(weight / 17.0), -7, 7) * 17  # 15 even steps
    assert np.square(found - weight).sum() < 0.8 * np.square(uniform - weight).sum()


def test_channels_with_large_scales_count_more() -> None:
    """32 values, half of them in a channel whose scale is a thousand times the other's: those come out exactly."""
    even, odd = np.arange(-16, 16, 2), np.arange(-15, 17, 2)
    weight = np.stack([np.tile(even, 40), np.tile(odd, 40)]).astype(np.int8)
    model = dequantized(weight, np.array([1.0, 0.001], np.float32), 0)
    pack_weights(model)
    assert np.array_equal(value_of(model)[0], weight[0])


def test_small_tensors_activations_and_zeros() -> None:
    small = dequantized(weights((4, 4), 9), np.float32(1), None)
    before = small.SerializeToString()
    assert pack_weights(small) == {}
    assert small.SerializeToString() == before
    zeros = dequantized(np.zeros((30, 30), np.int8), np.float32(1), None)
    assert pack_weights(zeros) == {"w": 0.0}
    assert not value_of(zeros).any()


def test_a_network_keeps_its_integer_kernels_and_shrinks(exported: Exported, tmp_path: Path) -> None:
    report = quantize_onnx(exported.fp32, tmp_path / "q4.onnx", [(X[:32],), (X[32:],)], weight_bits=4)
    assert report.weight_bits == 4
    assert report.target_bytes < 0.8 * exported.report.target_bytes  # at ten thousand parameters
    counts = []
    for path in (exported.int8, tmp_path / "q4.onnx"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        counts.append(Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node))
    assert counts[0] == counts[1]
    for batch in (1, 5):
        assert compare_outputs(exported.model, ONNX.load(tmp_path / "q4.onnx"), (X[:batch],)).relative < 0.6
    quantize_onnx(exported.fp32, tmp_path / "again.onnx", [(X[:32],), (X[32:],)], weight_bits=4)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "q4.onnx").read_bytes()


def test_other_widths_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 or 8"):
        quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], weight_bits=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_files_of_older_operators_are_unpacked_too(tmp_path: Path, opset: int) -> None:
    """What unpacks 4 bits came with opset 18."""
    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 64), ("y", 32)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "main", [x], [y], [numpy_helper.from_array(weight, "w")])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "old.onnx")
    data = np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)
    quantize_onnx(tmp_path / "old.onnx", tmp_path / "q.onnx", [(data,)], weight_bits=4)
    store(tmp_path / "old.onnx", tmp_path / "s.onnx", "int4-weights")
    for name in ("q.onnx", "s.onnx"):
        (found,) = ONNX.load(tmp_path / name).run([data])
        assert np.abs(found - data @ weight).max() < 0.2 * np.abs(data @ weight).max(), name
