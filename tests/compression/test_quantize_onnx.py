"""Static int8: integer arithmetic throughout, small, any batch, and errors for data that calibrate nothing."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compression.exported import Exported, X
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.export.compare import compare_outputs

ONNX = EXPORTS.get("onnx")


def runtime_operators(path: Path, tmp_path: Path) -> Counter[str]:
    """What ONNX Runtime really executes after its own optimisation."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def test_everything_runs_in_integer_kernels(exported: Exported, tmp_path: Path) -> None:
    """Convolutions, residual adds, pooling and the last layer; ReLUs vanish into the ranges."""
    found = runtime_operators(exported.int8, tmp_path)
    layers = [m for m in exported.model.modules() if isinstance(m, nn.Conv2d)]
    assert found["QLinearConv"] == len(layers)
    assert found["QLinearAdd"] == 3
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["QGemm"] == 1
    assert not found.keys() & {"Conv", "Add", "Relu", "ReduceMean", "Gemm"}
    assert found["QuantizeLinear"] <= 1
    assert found["DequantizeLinear"] <= 1


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_outputs_stay_close_at_any_batch(exported: Exported, batch: int) -> None:
    found = compare_outputs(exported.model, ONNX.load(exported.int8), (X[:batch],))
    assert 0 < found.relative < 0.1


def test_report_counts_and_metadata(exported: Exported) -> None:
    report = exported.report
    assert report.source_bytes == exported.fp32.stat().st_size
    assert report.target_bytes == exported.int8.stat().st_size
    assert report.examples == 64
    assert report.integer["Conv"] == sum(isinstance(m, nn.Conv2d) for m in exported.model.modules())
    assert report.floating == {}
    assert report.to_json()["method"] == "minmax"
    before, after = ONNX.load(exported.fp32).metadata, ONNX.load(exported.int8).metadata
    assert after == {**before, "precision": "int8"}


def test_weights_are_int8_per_channel_and_symmetric(exported: Exported) -> None:
    proto = onnx.load(exported.int8)
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert len(nodes) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in exported.model.modules())
    for node in nodes:
        weight, scale, zero = (constants[name] for name in node.input)
        assert weight.dtype == np.int8
        assert weight.ndim >= 2
        assert len(scale) in weight.shape
        assert not zero.any()


def test_bytes_per_parameter_of_a_small_residual_network(tmp_path: Path) -> None:
    """The cost of names, scales and nodes, at a size where it shows: 21 convolutions, 80 thousand parameters."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.a, self.norm_a = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
            self.b, self.norm_b = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
            self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            inner = self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
            return torch.relu(inner + self.short(x))

    widths = [1, 12, 12, 12, 20, 20, 20, 32, 32, 32]
    blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    parameters = sum(p.numel() for p in model.parameters())
    assert 70_000 < parameters < 90_000
    x = X[:4, :, :8, :8]
    ONNX.write(model, (torch.from_numpy(x),), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(x,)])
    assert (tmp_path / "m.onnx").stat().st_size < 4.12 * parameters
    assert report.target_bytes < 1.2 * parameters
    assert compare_outputs(model, ONNX.load(tmp_path / "q.onnx"), (x,)).values == 40


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_ways_to_calibrate(exported: Exported, tmp_path: Path, method: str) -> None:
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X[:32],)], method=method)
    assert compare_outputs(exported.model, ONNX.load(tmp_path / "q.onnx"), (X,)).relative < 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["q.onnx"]


def test_excluding_by_layer_and_by_operator(exported: Exported, tmp_path: Path) -> None:
    layers = [name for name, m in exported.model.named_modules() if isinstance(m, nn.Conv2d)]
    one = quantize_onnx(exported.fp32, tmp_path / "one.onnx", [(X,)], exclude=[layers[1]])
    assert one.floating["Conv"] == 1
    assert one.integer["Conv"] == len(layers) - 1
    every = quantize_onnx(exported.fp32, tmp_path / "all.onnx", [(X,)], exclude=["Conv"])
    assert every.floating["Conv"] == len(layers)
    assert one.target_bytes < every.target_bytes
    assert compare_outputs(exported.model, ONNX.load(tmp_path / "all.onnx"), (X,)).relative < 0.05


def test_excluding_what_is_not_there(exported: Exported, tmp_path: Path) -> None:
    layer = next(name for name, m in exported.model.named_modules() if isinstance(m, nn.Conv2d))
    with pytest.raises(UserError, match="nothing in the file") as caught:
        quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], exclude=[layer + "x"])
    assert f"did you mean {layer!r}" in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "there are none"),
        ([(X[:0],)], "there are none"),
        ([(np.full_like(X, 0.5),)], "constant"),
        ([(X,), (np.where(X > 3, np.nan, X),)], "NaN or infinity"),
        ([(np.where(X > 3, np.inf, X),)], "NaN or infinity"),
        ([(X, X)], "takes 1 inputs"),
    ],
)
def test_data_that_calibrate_nothing(
    exported: Exported, tmp_path: Path, calibration: list[tuple[np.ndarray, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        quantize_onnx(exported.fp32, tmp_path / "q.onnx", calibration)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_shape(exported: Exported, tmp_path: Path) -> None:
    for wrong in (X[:, :, :3, :3, None], X.astype(np.float64), np.repeat(X, 2, axis=1)):
        with pytest.raises(UserError, match="calibration data do not fit"):
            quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(wrong,)])


def test_a_reduced_range_leaves_a_bit_unused(exported: Exported, tmp_path: Path) -> None:
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], reduce_range=True)
    for path, low, high in ((exported.int8, 120, 128), (tmp_path / "q.onnx", 60, 64)):
        arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        assert low <= max(np.abs(a.astype(int)).max() for a in arrays if a.dtype == np.int8) <= high


def test_a_fixed_batch_is_calibrated_in_batches_of_its_size(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(int(x.shape[0]) if x.shape[0] == 2 else 3, -1) * 2

    written = ONNX.write(Fixed(), (torch.from_numpy(X[:2]),), tmp_path / "m.onnx")
    assert not written.dynamic_batch
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(X[:7],), (X[:4],)])
    assert report.examples == 10
    assert ONNX.load(tmp_path / "q.onnx").batch == 2
    with pytest.raises(UserError, match="there are none"):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(X[:1],)])


def test_a_source_that_is_absent_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(X,)])
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match="not a readable ONNX"):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(X,)])


def test_a_generator_will_do_and_nothing_is_said(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = list(logging.getLogger().handlers)
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", ((part,) for part in np.split(X, 4)))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_batch_norms_of_foreign_files_are_folded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(3, 1, 3, 3)).astype(np.float32),
        **{name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in ("gamma", "beta", "mean", "var")},
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
            helper.make_node("Relu", ["n"], ["y"]),
        ],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 14, 14])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
    report = quantize_onnx(source, target, [(X,)])
    assert report.floating == {}
    assert set(report.integer) <= {"Conv", "Relu"}
    (expected,), (found,) = ONNX.load(source).run([X]), ONNX.load(target).run([X])
    assert np.abs(expected - found).max() < 0.03 * np.abs(expected).max()


def test_several_inputs_of_other_types(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.out = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 5)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            x = self.norm(self.table(tokens)) * mask[..., None]
            out: Tensor = self.out(x)
            return out

    model = Tokens().eval()
    tokens, mask = torch.randint(9, (4, 7)), torch.ones(4, 7)
    ONNX.write(model, (tokens, mask), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", [(tokens.numpy(), mask.numpy())])
    assert "LayerNormalization" in report.floating
    assert compare_outputs(model, ONNX.load(tmp_path / "q.onnx"), (tokens, mask)).relative < 0.05
