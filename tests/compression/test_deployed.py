"""Weights are counted as the runtime multiplies by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from neuroprune.compression.deployed import FileWeights, file_weights, in_order_of
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS


def _written(folder: Path) -> tuple[nn.Sequential, Path]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 100))
    path = folder / "model.onnx"
    EXPORTS.get("onnx").write(model.eval(), (torch.randn(2, 2, 8, 8),), path)
    return model, path


def test_a_float_file_holds_the_layers_weights(tmp_path: Path) -> None:
    model, path = _written(tmp_path)
    conv, linear = file_weights(path)
    assert (conv.operator, linear.operator) == ("Conv", "Gemm")
    np.testing.assert_array_equal(conv.values, model[0].weight.detach().numpy())
    np.testing.assert_array_equal(
        np.sort(linear.values.ravel()), np.sort(model[3].weight.detach().numpy().ravel())
    )
    assert (conv.stored_bytes, linear.stored_bytes) == (4 * 144, 4 * 28_800)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_integer_file_is_counted_with_its_scales(tmp_path: Path, bits: int) -> None:
    model, path = _written(tmp_path)
    target = tmp_path / "int8.onnx"
    rng = np.random.default_rng(0)
    quantize_onnx(path, target, [(rng.normal(size=(8, 2, 8, 8)).astype(np.float32),)], weight_bits=bits)  # type: ignore[arg-type]
    conv, linear = file_weights(target)
    dense = model[0].weight.detach().numpy()
    steps = np.abs(dense).max((1, 2, 3), keepdims=True) / 127
    assert np.abs(conv.values - dense).max() <= steps.max() * 0.51  # too small to be packed in 4 bits
    if bits == 8:
        dense = model[3].weight.detach().numpy()
        values = linear.values if linear.values.shape == dense.shape else linear.values.T
        assert (np.abs(values - dense) <= 0.51 * np.abs(dense).max(1, keepdims=True) / 127).all()
    per_channel = [len(np.unique(channel)) for channel in linear.values.reshape(100, -1)]
    assert max(per_channel) <= 2**bits
    assert conv.numbers.dtype == linear.numbers.dtype == np.int8
    assert len(np.unique(linear.numbers)) <= 2**bits < len(np.unique(linear.values))
    assert linear.stored_bytes < 28_800 * bits / 8 + 2_000


def test_a_product_of_two_inputs_has_no_weights(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3]) for name in ("x", "y")]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weight])), tmp_path / "m.onnx"
    )
    (only,) = file_weights(tmp_path / "m.onnx")
    np.testing.assert_array_equal(only.values, np.eye(3))


def test_layers_of_another_file_are_found_by_their_values() -> None:
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (4, 3), (2, 5), (4, 3)]
    first = [FileWeights("Conv", 4, rng.normal(size=shape), np.zeros(1)) for shape in shapes]
    second = [
        FileWeights("Conv", 1, one.values + 0.01 * rng.normal(size=one.values.shape), one.numbers) for one in first
    ]
    found = in_order_of(first, [second[i] for i in (3, 2, 0, 1)])
    assert found is not None
    assert all(one is other for one, other in zip(found, second, strict=True))
    assert in_order_of(first, second[:3]) is None
