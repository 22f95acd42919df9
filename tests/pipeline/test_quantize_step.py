"""The quantize step: mixed precision in a run, in its report; why int8 is slow where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.compression.runtime import kernels_of
from neuroprune.export import EXPORTS
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.recipe import parse_recipe
from neuroprune.pipeline.run import run_recipe
from neuroprune.pipeline.steps.export import INT8, STORED
from neuroprune.pipeline.steps.measure import _slower

HEAD = """\
name: small
model: {spec: "neuroprune.tasks.nets:tiny_resnet"}
data: {spec: digits, limit: 200}
steps:
  - train: {epochs: 1}
"""
TAIL = """
  - validate
  - measure: {seconds: 0.1, memory: false}
  - report
"""


def test_a_mixed_run_says_what_each_layer_got(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    steps = "  - cluster: {k: 8}\n  - export\n  - quantize: {calibration: 32, max_drop: 100, pack: true}"
    steps += "\n  - store: {precision: bf16-weights}"
    run_recipe(parse_recipe(HEAD + steps + TAIL), tmp_path / "out")
    results: dict[str, Any] = read_json(tmp_path / "out" / "results.json")
    layers = results["quantized"]
    assert len(layers) == 10
    assert all(layer["int8"] >= 0 for layer in layers)
    assert {layer["precision"] for layer in layers} == {"int8", "int8, weights in 4 bits"}
    assert "How each layer bears int8" in (tmp_path / "out" / "report.html").read_text()
    record = next(step for step in results["steps"] if step["name"].endswith("quantize"))
    assert "layers int8, weights in 4 bits" in record["summary"]
    facts = read_json(next((tmp_path / "out" / "steps").glob("*-quantize")) / "record.json")["facts"]
    assert len(facts["int8"]["clusters"]) >= 9  # behind batch norms too
    stored = next(v for v in results["variants"] if v["name"] == "compressed, stored small")
    file = tmp_path / "out" / "artifact" / STORED
    assert stored["size_bytes"] == file.stat().st_size
    assert EXPORTS.get("onnx").load(file).metadata["precision"] == "bf16-weights"


def test_an_unknown_precision_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(UserError, match="unknown precision"):
        parse_recipe(HEAD + "  - export\n  - store: {precision: fp8}" + TAIL)


@pytest.mark.parametrize("options", ["{max_drop: -1}", "{max_bytes: 0}", "{method: least}", "{weights: row}"])
def test_options_out_of_range(options: str) -> None:
    with pytest.raises(UserError):
        parse_recipe(HEAD + f"  - export\n  - quantize: {options}" + TAIL)


class Erf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.erf(self.norm(self.a(x))))
        return out


def test_what_runs_in_float_is_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    EXPORTS.get("onnx").write(Erf(), (torch.from_numpy(x[:2]),), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / INT8, [(x,)])
    assert report.reasons["Erf"] == report.reasons["LayerNormalization"] == "no integer kernel"
    kernels = kernels_of(tmp_path / INT8)
    assert {"Erf", "LayerNormalization"} <= kernels.floating.keys()
    assert kernels.conversions >= 4
    assert not kernels_of(tmp_path / "m.onnx").integer
    context = Context.__new__(Context)
    context.files = {INT8: tmp_path / INT8}
    assert _slower(context, {"compressed fp32": 2.0, "compressed int8": 1.0}) == []
    assert _slower(context, {"compressed fp32": 2.0}) == []
    assert _slower(context, {"compressed fp32": 1.0, "compressed int8": 1.02}) == []
    (note,) = _slower(context, {"compressed fp32": 1.0, "compressed int8": 2.0})
    assert "Int8 is slower than fp32 on this device: 2 ms against 1 ms" in note
    assert "Erf 1" in note


def test_training_on_the_grid_keeps_masks_and_clusters_to_the_file(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    steps = (
        "  - technique: {name: magnitude, density: 0.5, epochs: 1}\n  - cluster: {k: 8}\n"
        "  - qat: {epochs: 1, distill: false}\n  - export\n  - quantize: {calibration: 32, ranges: learned}"
    )
    run_recipe(parse_recipe(HEAD + steps + TAIL), tmp_path / "out")
    folders = tmp_path / "out" / "steps"
    trained = load_tensors(next(folders.glob("*-qat")) / "weights.safetensors")
    masks = load_tensors(next(folders.glob("*-technique")) / "masks.safetensors")
    for name, mask in masks.items():
        assert (trained[name][mask == 0] == 0).all(), name
    file = onnx.load(next(folders.glob("*-quantize")) / INT8)
    integers = [numpy_helper.to_array(t) for t in file.graph.initializer]
    kernels = [a for a in integers if a.dtype == np.int8 and a.ndim == 4]
    left = [t.numpy() for t in trained.values() if t.dim() == 4]
    assert len(kernels) == len(left) >= 9
    for kernel in kernels:  # equal weights are equal integers, the sign of a channel is batch norm's
        alike = [t for t in left if t.shape == kernel.shape and _as_clustered(kernel, t)]
        assert alike, kernel.shape


def _as_clustered(kernel: np.ndarray, weight: np.ndarray) -> bool:
    """Each channel of ``kernel`` is a function of the weights' values, the same for all but for its sign."""
    values = np.unique(weight)
    table = dict.fromkeys(values.tolist())
    for ours, theirs in zip(kernel, weight, strict=True):
        for value in np.unique(theirs):
            found = np.unique(ours[theirs == value])
            if len(found) > 1 or (value == 0 and found[0] != 0):
                return False
            known = table[value]
            if known is not None and abs(int(found[0])) != known:
                return False
            table[value] = abs(int(found[0]))
    return True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("max_drop: 1, weight_bits: 4", "leave weight_bits and ranges out"),
        ("max_bytes: 9000, ranges: learned", "leave weight_bits and ranges out"),
        ("pack: true", "give max_drop"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_recipe(f"{HEAD}  - export\n  - quantize: {{{options}}}{TAIL}")


def test_learned_ranges_need_a_step_that_learns_them(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="no ranges were learned"):
        run_recipe(parse_recipe(HEAD + "  - export\n  - quantize: {ranges: learned}" + TAIL), tmp_path / "out")
