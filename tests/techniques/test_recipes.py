"""The recipes of the techniques: each reads and runs, and one that was broken off ends with the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.pipeline.recipe import load_recipe, parse_recipe, shipped_recipes
from neuroprune.pipeline.run import run_recipe
from neuroprune.techniques import TECHNIQUES

RECIPES = {name: path for name, path in shipped_recipes().items() if name.startswith("technique-")}
SMALL = """
name: small
model: {spec: "neuroprune.tasks.nets:tiny_resnet"}
data: {spec: digits, limit: 200}
steps:
  - train: {epochs: 2}
  - technique: {name: NAME, density: 0.5, epochs: 2, options: OPTIONS}
  - export: {}
  - validate: {}
  - measure: {seconds: 0.2}
  - report: {}
"""


def test_every_technique_has_a_recipe() -> None:
    named = {load_recipe(path).steps[1].config.model_dump()["name"] for path in RECIPES.values()}
    assert named | {"neuroprune"} >= set(TECHNIQUES.names()) - {
        "third_party_first_rows"
    }  # S1's is neuroprune.yaml


def small(name: str, options: str = "{}") -> str:
    return SMALL.replace("NAME", name).replace("OPTIONS", options)


def test_zeros_are_zeros_in_the_exported_file_and_the_table_says_so(tmp_path: Path) -> None:
    result = run_recipe(parse_recipe(small("weight")), tmp_path / "run")
    assert result.results is not None
    rows = {row["metric"]: row for row in result.results["table"]}
    zero = sum(int((p == 0).sum()) for p in result.model.parameters())
    assert rows["Non-zero parameters"]["after"] == rows["Parameters"]["after"] - zero
    masks = load_tensors(next((tmp_path / "run").rglob("*technique/masks.safetensors")))
    stored = [numpy_helper.to_array(one) for one in
              onnx.load(next((tmp_path / "run").rglob("model.onnx"))).graph.initializer]  # fmt: skip
    for name, mask in masks.items():
        same = [value for value in stored if value.shape == tuple(mask.shape)]
        assert any(((value == 0) >= (mask.numpy() == 0)).all() for value in same), name


@pytest.mark.parametrize("name", ["filter", "two-level", "before-training"])
def test_a_run_that_is_taken_up_after_the_technique_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    whole = run_recipe(parse_recipe(small(name)), tmp_path / "whole")
    run_recipe(parse_recipe(small(name)), tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "steps" / "03-export")
    again = run_recipe(parse_recipe(small(name)), tmp_path / "part", resume=True)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_results_name_the_trainings(tmp_path: Path) -> None:
    run_recipe(parse_recipe(small("l1")), tmp_path / "run")
    curves = read_json(tmp_path / "run" / "results.json")["curves"]
    assert [curve["label"] for curve in curves] == ["dense training", "training with l1", "training after the cut"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("weigth", "{}", "did you mean 'weight'"), ("weight", "{shape: 2x2}", "no option 'shape'"),
     ("group", "{shape: 3}", "option 'shape'")],
)  # fmt: skip
def test_mistakes_are_answered_with_their_line(name: str, options: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_recipe(small(name, options), "mine.yaml")
    assert "mine.yaml:" in str(caught.value)
