"""The step `code`: model.npc in the run, its size in the table, its check in the artifact."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import neuroprune
from neuroprune.base.files import read_json, write_json
from neuroprune.compression.artifact import verify_artifact
from neuroprune.compression.manifest import NAME, entry_of
from neuroprune.pipeline.recipe import parse_recipe
from neuroprune.pipeline.run import run_recipe
from neuroprune.pipeline.steps.code import CodeConfig, code

RECIPE = """\
name: coded
model: {spec: "neuroprune.tasks.nets:tiny_resnet"}
data: {spec: digits, limit: 200}
steps:
  - export
  - quantize: {calibration: 32}
  - validate
  - code
  - measure: {seconds: 0.1, memory: false}
  - document
  - report
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "out"
    run_recipe(parse_recipe(RECIPE), out)
    return out


def test_the_artifact_holds_the_coded_int8_file(finished: Path, tmp_path: Path) -> None:
    artifact = finished / "artifact"
    neuroprune.unpack(artifact / "model.npc", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (artifact / "model.int8.onnx").read_bytes()
    (row,) = [row for row in read_json(finished / "results.json")["table"] if row["metric"] == "Coded size"]
    assert row["after"] == (artifact / "model.npc").stat().st_size < row["before"]
    assert "Coded size" in (finished / "DOCUMENT.md").read_text()
    report = verify_artifact(artifact)
    assert report.ok, str(report)
    assert any(c.name == "model.npc unpacked" and "model.int8.onnx" in c.detail for c in report.checks)


def resealed(artifact: Path) -> None:
    """The manifest lists model.npc as it is now."""
    data = read_json(artifact / NAME)
    data["files"]["model.npc"] = vars(entry_of(artifact / "model.npc"))
    from neuroprune.compression.manifest import _seal

    data["seal"] = _seal({key: value for key, value in data.items() if key != "seal"})
    write_json(artifact / NAME, data)


def test_a_coded_file_of_another_network_is_found(finished: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(finished / "artifact", artifact)
    neuroprune.pack({"w": np.zeros(900, np.float32)}, artifact / "model.npc")
    assert "model.npc: was changed" in str(verify_artifact(artifact))
    resealed(artifact)
    report = verify_artifact(artifact)
    assert not report.ok
    assert report.checks[-1].name == "model.npc unpacked"
    assert report.checks[-1].detail == "to no file beside it"
    (artifact / "model.npc").write_bytes(b"no such file")
    resealed(artifact)
    assert "is damaged" in verify_artifact(artifact).checks[-1].detail


def test_without_an_int8_file_the_fp32_one_is_coded(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    proto = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(weights, "w")]))
    onnx.save(proto, tmp_path / "file.onnx")
    files = dict.fromkeys(("dense.onnx", "model.onnx"), tmp_path / "file.onnx")
    context = SimpleNamespace(files=files, step_folder=tmp_path / "step", work=tmp_path / "work")
    outcome = code(context, CodeConfig())  # type: ignore[arg-type]
    assert outcome.facts["coded"]["file"] == "model.onnx"
    assert outcome.files == ("model.npc",)
    assert outcome.facts["coded"]["bytes"] == (tmp_path / "step" / "model.npc").stat().st_size
    assert not list((tmp_path / "work").iterdir())
