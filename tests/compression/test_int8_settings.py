"""What int8 may be told: clusters kept, layers equalised, biases corrected, `auto`; each against a slow truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compression.exported import Exported, X
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.bench import Bench, Settings
from neuroprune.compression.cluster import cluster_weights
from neuroprune.compression.distinct import is_clustered
from neuroprune.compression.equalize import equalize, pairs_of
from neuroprune.compression.layers import constants_of, layers_of
from neuroprune.compression.quantize import opened, quantize_onnx
from neuroprune.export import EXPORTS

ONNX = EXPORTS.get("onnx")


def integers(path: Path) -> list[np.ndarray]:
    """The weights as they lie in the file."""
    arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    return [a for a in arrays if a.dtype == np.int8 and a.ndim > 1]


def written(model: nn.Module, folder: Path, x: np.ndarray = X) -> Path:
    ONNX.write(model.eval(), (torch.from_numpy(x[:1]),), folder / "m.onnx", keep_names=True)
    return folder / "m.onnx"


def outputs(proto: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x})[0])


def test_one_layer_by_hand(tmp_path: Path) -> None:
    """Gemm on integers: quantise input and weight by their extremes, multiply as integers, scale, quantise."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    quantize_onnx(written(layer, tmp_path, x), tmp_path / "q.onnx", [(x,)])
    weight, bias = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    y = x @ weight.T + bias

    def steps(value: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float]:
        scale = np.float64(np.float32((high - low) / 255))
        zero = np.rint(-low / scale)
        return np.clip(np.rint(value / scale) + zero, 0, 255) - zero, scale

    xi, sx = steps(x, x.min(), x.max())
    sw = np.abs(weight).max(1) / 127
    wi = np.rint(weight / sw[:, None])
    exact = (xi @ wi.T) * sx * sw + bias
    yi, sy = steps(exact, y.min(), y.max())
    (found,) = ONNX.load(tmp_path / "q.onnx").run([x])
    assert np.abs(found - yi * sy).max() <= 1.01 * sy  # one step, where a sum falls between two
    assert (np.abs(found - yi * sy) > 0.01 * sy).mean() < 0.05


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "mse"},
        {"weights": "tensor"},
        {"activations": "symmetric"},
        {"equalize": True, "correct_bias": True},
        {"weight_bits": 4},
    ],
)
def test_the_runtime_computes_what_the_onnx_standard_says(
    exported: Exported, tmp_path: Path, options: dict[str, object]
) -> None:
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], **options)  # type: ignore[arg-type]
    (found,) = ONNX.load(tmp_path / "q.onnx").run([X[:8]])
    expected = outputs(onnx.load(tmp_path / "q.onnx"), X[:8])
    spread = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 0.03 * spread  # a step or two of the last layers


def test_activations_and_weights_as_asked_for(exported: Exported, tmp_path: Path) -> None:
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], weights="tensor", activations="symmetric")
    proto = onnx.load(tmp_path / "q.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert zero.shape == ()
            assert zero == 0


class Plain(nn.Module):
    """conv - ReLU - depthwise conv - ReLU - pool - conv; no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 8, 3),
            nn.Conv2d(8, 8, (3, 2), groups=8),
            nn.Conv2d(8, 5, 1, bias=False),
        )
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.b(torch.relu(self.a(x)))))
        out: Tensor = self.last(self.c(x)).flatten(1)
        return out


def uneven() -> Plain:
    """Channels of very different sizes, which one range per tensor cannot hold."""
    torch.manual_seed(0)
    model = Plain()
    factors = torch.logspace(-1.5, 1.5, 8)
    with torch.no_grad():
        model.a.weight *= factors.view(-1, 1, 1, 1)
        model.a.bias *= factors
        model.b.weight /= factors.view(-1, 1, 1, 1)
    return model


def test_equalising_changes_no_output_and_evens_out_the_channels(tmp_path: Path) -> None:
    proto = onnx.load(written(uneven(), tmp_path))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"node{index}"
    before = outputs(proto)
    assert [(p.first.name, p.second.name, p.groups) for p in pairs_of(proto)] == [
        ("a", "b", 8),
        ("b", "c", 1),
        ("c", "last", 1),
    ]
    assert equalize(proto) == 3
    assert np.abs(outputs(proto) - before).max() <= 1e-5 * np.abs(before).max()
    held = {name: numpy_helper.to_array(t) for name, t in constants_of(proto).items()}
    reach_a, reach_b = (np.abs(held[f"{n}.weight"]).reshape(8, -1).max(1) for n in "ab")
    assert np.allclose(reach_a, reach_b, rtol=0.05)


def test_equalising_helps_one_range_per_tensor(tmp_path: Path) -> None:
    source = written(uneven(), tmp_path)
    bench = opened(source, [(X,)])
    plain = Settings(weights="tensor")
    errors = [bench.error(bench.quantized(replace(plain, equalize=on))) for on in (False, True)]
    assert errors[1] < 0.5 * errors[0]


def test_what_two_read_is_not_equalised(tmp_path: Path) -> None:
    class Branched(Plain):
        def forward(self, x: Tensor) -> Tensor:
            inner = self.a(x)
            return self.b(inner) + inner[:, :, 1:-1, 1:]

    class Clipped(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.clamp(self.a(x), 0, 6))

    for model in (Branched(), Clipped()):
        proto = onnx.load(written(model, tmp_path))
        for index, node in enumerate(proto.graph.node):
            node.name = node.name or f"node{index}"
        assert pairs_of(proto) == []


def test_correction_takes_the_mean_error_off_every_layer(exported: Exported) -> None:
    """Measured with the reference evaluator, not with what corrected it; the last layer's output."""
    bench = opened(exported.fp32, [(X,)])
    plain = Settings(weights="tensor", reduce_range=True)
    expected = outputs(bench.graph)
    shifts = []
    for on in (False, True):
        found = outputs(bench.quantized(replace(plain, correct_bias=on)))
        shifts.append(np.abs((found - expected).mean(0)).max())
    assert shifts[1] < 0.2 * shifts[0]


def test_auto_keeps_the_least_error_and_says_what_it_tried(exported: Exported, tmp_path: Path) -> None:
    report = quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], method="auto", weights="tensor")
    errors = [t.error for t in report.tried]
    assert len(report.tried) == (9 if any(t.settings.equalize for t in report.tried) else 5)
    chosen = next(t for t in report.tried if t.settings == report.settings)
    assert chosen.error == min(errors)
    assert {t.settings.method for t in report.tried} == {"minmax", "percentile", "entropy", "mse"}
    expected, found = (ONNX.load(p).run([X])[0] for p in (exported.fp32, tmp_path / "q.onnx"))
    independent = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert independent == pytest.approx(chosen.error, rel=0.2)  # integer kernels round a little otherwise


def clustered(model: nn.Module, k: int) -> nn.Module:
    """``k`` values per tensor, a third of them zero."""
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p[p.abs() < p.abs().flatten().kthvalue(max(1, p.numel() // 3)).values] = 0
    cluster_weights(model, k=k)
    return model


def test_clustered_weights_keep_their_number_of_values_and_their_zeros(tmp_path: Path) -> None:
    model = clustered(uneven(), 16)
    source = written(model, tmp_path)
    report = quantize_onnx(source, tmp_path / "q.onnx", [(X,)])
    held = [numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer]
    floats = {a.shape: a for a in held if a.ndim > 1 and is_clustered(a)}
    kept = 0
    for array in integers(tmp_path / "q.onnx"):
        if array.shape in floats:
            weight = floats[array.shape]
            assert len(np.unique(array)) <= len(np.unique(weight))
            assert ((weight == 0) <= (array == 0)).all()
            kept += 1
    assert kept == len(report.clusters) > 0
    quantize_onnx(source, tmp_path / "free.onnx", [(X,)], keep_clusters=False)
    assert max(len(np.unique(a)) for a in integers(tmp_path / "free.onnx")) > 16


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 12, 5), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.norm(self.conv(x)))).flatten(1)
        return out


@pytest.mark.parametrize("equal", [False, True])
def test_clusters_survive_a_folded_batch_norm(tmp_path: Path, equal: bool) -> None:
    torch.manual_seed(0)
    model = Normed()
    nn.init.uniform_(model.norm.weight, 0.2, 3)
    nn.init.uniform_(model.norm.running_var, 0.2, 3)
    clustered(model, 8)
    original = model.conv.weight.detach().numpy().copy()
    source = written(model, tmp_path)
    assert len(np.unique(numpy_helper.to_array(constants_of(onnx.load(source))["conv.weight"]))) > 8
    report = quantize_onnx(source, tmp_path / "q.onnx", [(X,)], originals=[original], equalize=equal)
    assert "conv" in report.clusters
    array = next(a for a in integers(tmp_path / "q.onnx") if a.shape == original.shape)
    assert len(np.unique(array)) <= 8
    assert ((original == 0) == (array == 0)).all()
    fp32, int8 = (ONNX.load(p).run([X])[0] for p in (source, tmp_path / "q.onnx"))
    assert np.sqrt(((fp32 - int8) ** 2).mean()) < 0.05 * fp32.std()


def test_small_tensors_of_many_values_are_not_clustered() -> None:
    rng = np.random.default_rng(0)
    assert not is_clustered(rng.normal(size=(4, 9)))
    assert not is_clustered(np.zeros((4, 9)))
    assert is_clustered(rng.choice([-1.0, 0.5, 2.0], size=(4, 9)))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = uneven()
    with torch.no_grad():
        model.b.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity") as caught:
        quantize_onnx(written(model, tmp_path), tmp_path / "q.onnx", [(X,)])
    assert "b.weight" in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [{"method": "least"}, {"weights": "row"}, {"activations": "signed"}],
    ids=["method", "weights", "act"],
)
def test_unknown_words_are_refused(exported: Exported, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UserError):
        quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], **options)  # type: ignore[arg-type]


def test_layers_are_named_after_their_modules(exported: Exported) -> None:
    named = {name for name, m in exported.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in layers_of(onnx.load(exported.fp32))} == named


def test_ranges_are_computed_once_for_many_ways(exported: Exported) -> None:
    bench = opened(exported.fp32, [(X,)])
    assert isinstance(bench, Bench)
    assert bench.ranges(Settings()) is bench.ranges(Settings(weights="tensor"))
    assert bench.ranges(Settings(equalize=True)) is not bench.ranges(Settings())
