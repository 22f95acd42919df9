"""Clustering as a step of a recipe: what it counts and hands on, its values trained and resumed, its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Stop

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.pipeline.recipe import Recipe, parse_recipe
from neuroprune.pipeline.run import run_recipe

HEAD = """\
name: small
model: {spec: "neuroprune.tasks.nets:tiny_resnet"}
data: {spec: digits, limit: 120, batch_size: 32}
steps:
  - train: {epochs: 2}
"""
TAIL = """\
  - export
  - quantize: {calibration: 16}
  - validate
  - measure: {seconds: 0.1, memory: false}
  - document
  - report
"""


def recipe(options: str, before: str = "", tail: str = "") -> Recipe:
    return parse_recipe(f"{HEAD}{before}  - cluster: {{{options}}}\n{tail}")


def weights(run: Path, step: str) -> dict[str, torch.Tensor]:
    found = load_tensors(run / "steps" / step / "weights.safetensors")
    return {name: tensor for name, tensor in found.items() if tensor.dim() >= 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights are masked, clustered with a book per layer, and the values trained."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("cluster") / "out"
    rounds = "{granularity: weight, rounds: 1, fraction: 0.4, lambda_weight: 1000, epochs: 1}"
    masked = f"  - initialise: {{granularity: weight}}\n  - rounds: {rounds}\n"
    run_recipe(recipe("k: 4, scope: layer, epochs: 2", masked, TAIL), out)
    return out


def test_the_weights_have_so_many_values_and_keep_their_zeros(finished: Path) -> None:
    before, after = weights(finished, "03-rounds"), weights(finished, "04-cluster")
    zeros = 0
    for name, old in before.items():
        assert len(after[name].unique()) <= 4
        assert torch.equal(old == 0, after[name] == 0), name
        zeros += int((old == 0).sum())
    assert zeros > 100


def test_values_are_trained_and_which_weight_has_which_is_not(finished: Path, tmp_path: Path) -> None:
    """Beside the same run without the training: the same partition of the weights, other values."""
    rounds = "{granularity: weight, rounds: 1, fraction: 0.4, lambda_weight: 1000, epochs: 1}"
    masked = f"  - initialise: {{granularity: weight}}\n  - rounds: {rounds}\n"
    run_recipe(recipe("k: 4, scope: layer", masked), tmp_path / "out")
    trained, found = weights(finished, "04-cluster"), weights(tmp_path / "out", "04-cluster")
    for name, tensor in trained.items():
        pairs = torch.stack([tensor.flatten(), found[name].flatten()]).unique(dim=1)
        assert pairs.shape[1] == len(tensor.unique()) == len(found[name].unique()), name
        assert not torch.equal(tensor, found[name]), name


def test_results_hold_every_layer_and_the_network(finished: Path) -> None:
    (found,) = read_json(finished / "results.json")["clusters"]
    before, after = weights(finished, "03-rounds"), weights(finished, "04-cluster")
    assert {layer["name"] + ".weight" for layer in found["layers"]} == set(before)
    for layer in found["layers"]:
        name = layer["name"] + ".weight"
        assert (layer["before"], layer["after"]) == (len(before[name].unique()), len(after[name].unique()))
        assert layer["entries"] == before[name].numel()
    for key, tensors in (("before", before), ("after", after)):
        assert found[key] == len(torch.cat([t.flatten() for t in tensors.values()]).unique())
    assert (found["k"], found["distortion"], found["scope"]) == (4, None, "layer")


def test_the_training_is_a_curve_and_the_report_shows_the_layers(finished: Path) -> None:
    curves = read_json(finished / "results.json")["curves"]
    assert [(c["label"], len(c["epochs"])) for c in curves[-1:]] == [("training of the clusters' values", 2)]
    page = (finished / "report.html").read_text()
    assert "Distinct weights of every layer" in page
    assert 'id="chart-clusters"' in page


def test_interrupted_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    small = recipe("distortion: 0.05, epochs: 3, optimizer: adamw, patience: 2")
    run_recipe(small, tmp_path / "whole")
    stops = 0
    while True:
        try:
            run_recipe(small, tmp_path / "killed", resume=stops > 0, progress=Stop(4))
            break
        except Interrupted:
            stops += 1
    assert stops > 2
    one, other = (tmp_path / run / "steps" / "02-cluster" / "weights.safetensors" for run in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_without_epochs_nothing_is_trained_and_kept_layers_stay(tmp_path: Path) -> None:
    run_recipe(recipe("k: 8, keep: [head]"), tmp_path)
    before, after = weights(tmp_path, "01-train"), weights(tmp_path, "02-cluster")
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert same == ["head.weight"]
    record = read_json(tmp_path / "steps" / "02-cluster" / "record.json")
    assert record["pieces"]["curves"] == []
    assert record["facts"]["clusters"]["error"] > 0
    assert "(k = 8 per tensor)" in record["summary"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("k: 1", "greater than or equal to 2"),
        ("k: 257", "less than or equal to 256"),
        ("k: 16, distortion: 0.01", "not both"),
        ("distortion: 2", "less than 1"),
        ("scope: row", "tensor"),
        ("gradient: median", "sum"),
    ],
)
def test_options_are_refused_when_the_recipe_is_read(options: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(options)
    assert message in str(caught.value)


def test_a_layer_to_keep_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no weight"):
        run_recipe(recipe("k: 8, keep: [haed]"), tmp_path)


def test_without_options_it_is_64_values_a_tensor() -> None:
    config: Any = parse_recipe(HEAD + "  - cluster\n").steps[1].config
    assert (config.values, config.scope, config.epochs) == (64, "tensor", 0)
