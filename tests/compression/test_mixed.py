"""Layers that bear int8 and layers that do not: the errors against files written by hand, the budgets kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compression.exported import Exported, X
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.bench import Settings
from neuroprune.compression.mixed import _fewest, between, layer_errors, mixed_precision
from neuroprune.compression.quantize import opened, quantize_onnx
from neuroprune.export import EXPORTS

ONNX = EXPORTS.get("onnx")
PLAIN = Settings()


def logits(path: Path) -> np.ndarray:
    return ONNX.load(path).run([X])[0]


def agreement(source: Path, path: Path) -> float:
    return 100 * float((logits(source).argmax(1) == logits(path).argmax(1)).mean())


@given(st.integers(0, 40), st.integers(0, 40))
def test_fewest_is_the_smallest_that_holds(needed: int, most: int) -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n >= needed

    assert _fewest(holds, most) == min(needed, most)
    assert len(asked) == len(set(asked))
    assert len(asked) <= 2 * (min(needed, most) + 2).bit_length() + 1


def test_a_layer_alone_against_a_file_in_which_all_else_is_excluded(exported: Exported, tmp_path: Path) -> None:
    bench = opened(exported.fp32, [(X,)])
    errors = layer_errors(bench, PLAIN)
    nodes = {node.name: node for node in bench.graph.graph.node}
    assert [e.int8 for _, e in errors] == sorted((e.int8 for _, e in errors), reverse=True)
    assert len(errors) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in exported.model.modules())
    layer, error = errors[0]
    rest = [name for name in nodes if name != layer.node]
    quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], exclude=rest)
    gap = (
        np.sqrt(((logits(tmp_path / "q.onnx") - logits(exported.fp32)) ** 2).mean()) / logits(exported.fp32).std()
    )
    assert error.int8 == pytest.approx(gap, rel=0.05)


def test_all_in_float_is_the_float_network_sums_included(exported: Exported) -> None:
    bench = opened(exported.fp32, [(X,)])
    layers = [layer.node for layer, _ in layer_errors(bench, PLAIN)]
    kept = [*layers, *between(bench.graph, layers)]
    assert bench.error(bench.quantized(PLAIN, kept)) < 1e-6


def test_what_lies_between_layers_goes_with_them() -> None:
    """a - relu - b - add(b, a's relu) - relu - c: the sum is beside b and c (through its relu), not beside a."""
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.float32), name) for name in ("wa", "wb", "wc")]
    nodes = [
        helper.make_node("MatMul", ["x", "wa"], ["1"], "a"),
        helper.make_node("Relu", ["1"], ["2"], "relu1"),
        helper.make_node("MatMul", ["2", "wb"], ["3"], "b"),
        helper.make_node("Add", ["3", "2"], ["4"], "sum"),
        helper.make_node("Relu", ["4"], ["5"], "relu2"),
        helper.make_node("MatMul", ["5", "wc"], ["6"], "c"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "6")]
    proto = helper.make_model(helper.make_graph(nodes, "main", ends[:1], ends[1:], weights))
    assert between(proto, ["a"]) == []
    assert between(proto, ["a", "b"]) == ["relu1"]
    assert between(proto, ["b", "c"]) == ["relu2"]
    assert between(proto, ["a", "b", "c"]) == ["relu1", "sum", "relu2"]


class Fragile(nn.Module):
    """The first layer's output has one channel a thousand times larger than the other, which carries the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 2), nn.Linear(2, 2), nn.Linear(2, 3)
        with torch.no_grad():
            self.first.weight.fill_(0.1)
            self.first.weight[0] *= 1000
            self.second.weight.copy_(torch.tensor([[0.0, 1.0], [1e-6, 0.0]]))
            self.second.bias.zero_()
            self.last.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.2, 0.1]]))
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.first(x[:, 0, 0])))
        return out


def test_the_layer_that_int8_breaks_falls_back(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    ONNX.write(Fragile(), (torch.from_numpy(X[:1]),), source, keep_names=True)
    quantize_onnx(source, tmp_path / "q.onnx", [(X,)])
    assert agreement(source, tmp_path / "q.onnx") < 90
    found = mixed_precision(source, tmp_path / "m8.onnx", [(X,)], max_drop=0.0, settings=PLAIN)
    assert found.missed == ()
    assert found.metric == agreement(source, tmp_path / "m8.onnx") == 100
    precisions = {layer.layer: layer.precision for layer in found.layers}
    assert "fp32" in (precisions["first"], precisions["second"])
    assert "kept in float" in found.report.reasons.values()


def test_bytes_are_met_by_packing_the_least_harmful(exported: Exported, tmp_path: Path) -> None:
    plain = quantize_onnx(exported.fp32, tmp_path / "q8.onnx", [(X,)]).target_bytes
    least = quantize_onnx(exported.fp32, tmp_path / "q4.onnx", [(X,)], weight_bits=4).target_bytes
    budget = (plain + least) // 2
    found = mixed_precision(exported.fp32, tmp_path / "m.onnx", [(X,)], max_bytes=budget, settings=PLAIN)
    assert found.missed == ()
    assert (tmp_path / "m.onnx").stat().st_size == found.report.target_bytes <= budget
    packed = [e for e in found.layers if "4 bits" in e.precision]
    others = [e for e in found.layers if e.packed is not None and e not in packed]
    assert packed
    assert others
    cost = [[((e.packed or 0) - e.int8) / e.weights for e in group] for group in (packed, others)]
    assert max(cost[0]) <= min(cost[1])


def test_a_budget_that_nothing_meets_is_named(exported: Exported, tmp_path: Path) -> None:
    found = mixed_precision(exported.fp32, tmp_path / "m.onnx", [(X,)], max_bytes=100, settings=PLAIN)
    assert found.missed == ("max_bytes",)
    assert found.report.target_bytes > 100


def test_packing_within_an_accuracy_budget(exported: Exported, tmp_path: Path) -> None:
    """Judged by a judge of the test's own: how many bytes of the file are there, which packing lowers."""
    judged: list[Path] = []

    def judge(path: Path) -> float:
        judged.append(path)
        return float(path.stat().st_size)

    plain, least = (
        quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)], weight_bits=bits).target_bytes  # type: ignore[arg-type]
        for bits in (8, 4)
    )
    drop = float(exported.fp32.stat().st_size - (least + (plain - least) // 8))  # nearly all of them
    found = mixed_precision(
        exported.fp32, tmp_path / "m.onnx", [(X,)], judge=judge, max_drop=drop, pack=True, settings=PLAIN
    )
    assert judged[0] == exported.fp32
    packed = sum("4 bits" in error.precision for error in found.layers)
    assert 0 < packed < sum(error.packed is not None for error in found.layers)
    assert found.fp32 - found.metric <= drop
    further = {packs: metric for floats, packs, metric in found.tried if floats == 0}
    assert found.fp32 - further[packed + 1] > drop  # one more would have been too many
    assert (tmp_path / "m.onnx").stat().st_size == found.metric


@pytest.mark.parametrize("options", [{"max_drop": -1.0}, {"max_drop": float("nan")}, {"max_bytes": 0}])
def test_budgets_below_zero(exported: Exported, tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="negative"):
        mixed_precision(exported.fp32, tmp_path / "m.onnx", [(X,)], **options)  # type: ignore[arg-type]


def test_outputs_without_classes_need_a_judge(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    ONNX.write(nn.Sequential(nn.Flatten(), nn.Linear(256, 1)), (torch.from_numpy(X[:2]),), source)
    with pytest.raises(UserError, match="no classes"):
        mixed_precision(source, tmp_path / "q.onnx", [(X,)], max_drop=1.0, settings=PLAIN)
    assert onnx.load(source).graph.node
