"""Lottery tickets as a step of a recipe: what it leaves behind, resumed, exported with exact zeros, cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from interrupting import Stop
from onnx import numpy_helper

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.compression.artifact import verify_artifact
from neuroprune.pipeline.recipe import Recipe, load_recipe, parse_recipe, shipped_recipes
from neuroprune.pipeline.run import run_recipe
from neuroprune.tasks.load import load_task
from neuroprune.tasks.models import load_model

NET = "neuroprune.tasks.nets:tiny_resnet"
HEAD = f"""\
name: small
model: {{spec: "{NET}"}}
data: {{spec: digits, limit: 200, batch_size: 32}}
steps:
"""
LOTTERY = "  - lottery: {rounds: 2, fraction: 0.5, epochs: 2, tolerance: 100%s}\n"
TAIL = """\
  - export
  - quantize: {calibration: 16}
  - validate
  - measure: {seconds: 0.1, memory: false}
  - document
  - report
"""


def recipe(options: str = "", tail: str = TAIL) -> Recipe:
    return parse_recipe(HEAD + LOTTERY % options + tail)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("lottery") / "out"
    run_recipe(recipe(", controls: [reinit, random_mask, dense]", "  - finetune: {epochs: 1}\n" + TAIL), out)
    return out


def results_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run / "results.json")
    return found


def initializers(path: Path) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


def zeros_by_shape(arrays: list[np.ndarray]) -> list[tuple[tuple[int, ...], int]]:
    """(shape without its order, zeros) of each matrix or kernel: the exporter may transpose."""
    return sorted((tuple(sorted(a.shape)), int((a == 0).sum())) for a in arrays if a.ndim >= 2)


def test_the_file_holds_exactly_the_zeros_of_the_masks_also_after_fine_tuning(finished: Path) -> None:
    masks = load_tensors(finished / "steps" / "01-lottery" / "masks.safetensors")
    expected = zeros_by_shape([mask.numpy() for mask in masks.values()])
    assert sum(count for _, count in expected) == sum(m.numel() - round(m.numel() / 4) for m in masks.values())
    for folder in (finished / "steps" / "03-export", finished / "artifact"):
        assert zeros_by_shape(initializers(folder / "model.onnx")) == expected
    assert sum(count for _, count in zeros_by_shape(initializers(finished / "steps/03-export/dense.onnx"))) == 0


def test_the_int8_file_holds_them_too(finished: Path) -> None:
    masks = load_tensors(finished / "steps" / "01-lottery" / "masks.safetensors")
    found = initializers(finished / "steps" / "04-quantize" / "model.int8.onnx")
    weights = zeros_by_shape([a for a in found if a.dtype == np.int8])
    assert [shape for shape, _ in weights] == sorted(tuple(sorted(m.shape)) for m in masks.values())
    assert sum(count for _, count in weights) >= sum(int((m == 0).sum()) for m in masks.values())


def test_results_and_report(finished: Path) -> None:
    tickets = results_of(finished)["tickets"]
    kinds = [(row["kind"], row["round"], row["chosen"]) for row in tickets]
    assert kinds == [
        ("dense", 0, False), ("ticket", 1, False), ("ticket", 2, True), ("reinit", 2, False),
        ("random_mask", 2, False), ("dense", 2, False),
    ]  # fmt: skip
    assert [round(row["sparsity"], 3) for row in tickets] == [0, 0.5, 0.75, 0.75, 0.75, 0]
    page = (finished / "report.html").read_text()
    assert "Lottery tickets, by sparsity" in page
    assert "other initial weights" in page
    layers = results_of(finished)["layers"]
    assert sum(layer["after"] for layer in layers) == sum(round(layer["before"] / 4) for layer in layers)
    assert verify_artifact(finished / "artifact").ok


def test_the_control_is_the_dense_network_trained_as_long_and_can_be_had_back(finished: Path) -> None:
    dense = load_model(NET)
    kept = load_tensors(finished / "steps" / "01-lottery" / "dense.safetensors")
    undo = load_tensors(finished / "undo" / "dense.safetensors")
    assert kept.keys() == undo.keys() == dense.state_dict().keys()
    assert all(torch.equal(kept[name], undo[name]) for name in kept)
    dense.load_state_dict(kept)
    task = load_task("digits", limit=200, batch_size=32)
    assert task.evaluate(dense, task.val) == results_of(finished)["tickets"][0]["metric"]
    assert [len(curve["epochs"]) for curve in results_of(finished)["curves"]] == [2, 2, 2, 2, 2, 2, 1]


def test_interrupted_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    small = recipe(", rewind: epoch, rewind_epoch: 1, controls: [reinit]", "  - finetune: {epochs: 2}\n")
    run_recipe(small, tmp_path / "whole")
    stops = 0
    while True:
        try:
            run_recipe(small, tmp_path / "killed", resume=stops > 0, progress=Stop(7))
            break
        except Interrupted:
            stops += 1
    assert stops > 3
    for name in ("01-lottery/weights", "01-lottery/masks", "01-lottery/dense", "02-finetune/weights"):
        one, other = (tmp_path / run / "steps" / f"{name}.safetensors" for run in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes(), name
    assert not list((tmp_path / "killed" / "steps").glob("*.work")), "checkpoints of a finished step go"


def test_a_resumed_run_knows_the_dense_network(tmp_path: Path) -> None:
    """Distillation learns from it, and the table compares with it: it is not the ticket."""
    lottery = recipe("", "  - finetune: {epochs: 1, alpha: 1.0}\n")
    run_recipe(lottery, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_recipe(lottery, tmp_path / "killed", progress=_StopIn("02-finetune"))
    assert (tmp_path / "killed" / "steps" / "01-lottery").is_dir()
    run_recipe(lottery, tmp_path / "killed", resume=True)
    one, other = (tmp_path / r / "steps" / "02-finetune" / "weights.safetensors" for r in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


class _StopIn(Stop):
    """Presses Ctrl-C in the step of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(10**9)
        self.name = name

    def start(self, title: str, total: int) -> None:
        if title == self.name:
            self.left = 1


def test_a_ticket_of_filters_is_cut(tmp_path: Path) -> None:
    result = run_recipe(recipe(", granularity: filter, rewind: lr", "  - cut\n"), tmp_path / "out")
    sizes = [sum(p.numel() for p in model.parameters()) for model in (load_model(NET), result.model)]
    assert sizes[1] < 0.15 * sizes[0], "a quarter of the units stays, and about its square of the weights"


def test_a_ticket_of_single_weights_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="single weights were masked"):
        run_recipe(recipe("", "  - cut\n"), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (", rewind: epoch, rewind_epoch: 2", "rewind_epoch is out of range"),
        (", rewind: epoch, rewind_epoch: 2", "1..1"),
        (", criterion: fpgm", "whole units"),
        (", criterion: l3", "l1"),
        (", rewind: start", "init"),
        (", control_rounds: [3]", "rounds are 1..2"),
        (", rates: {fc: 2}", "rates"),
        (", controls: [again]", "reinit"),
    ],
)
def test_options_are_refused_when_the_recipe_is_read(options: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(options)
    assert message in str(caught.value)
    assert ":5" in str(caught.value), "file and line"


def test_the_shipped_recipe() -> None:
    loaded = load_recipe(shipped_recipes()["lottery-ticket"])
    assert loaded.steps[0].name == "lottery"
