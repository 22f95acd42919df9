"""The step `transfer`: other data, a new head, plan and masks in force, resumed to the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.compression.artifact import verify_artifact
from neuroprune.compression.manifest import read_manifest
from neuroprune.pipeline.recipe import Recipe, load_recipe, parse_recipe, shipped_recipes
from neuroprune.pipeline.run import run_recipe
from neuroprune.pruning.head import Head, set_head
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import restore
from neuroprune.pruning.surgery import apply
from neuroprune.tasks.models import load_model

HEAD = """\
name: moved
model: {spec: "neuroprune.tasks.nets:tiny_resnet", kwargs: {classes: 4}}
data: {spec: digits, limit: 400, classes: [0, 1, 2, 3], batch_size: 32}
steps:
"""
DATA = "{spec: digits, limit: 400, classes: [7, 8, 9], batch_size: 32}"
PRUNED = "  - train: {epochs: 2}\n  - initialise\n  - rounds: {rounds: 2, fraction: 0.2}\n"
TAIL = """\
  - export
  - quantize: {calibration: 32}
  - validate
  - measure: {seconds: 0.1}
  - report
"""


def recipe(steps: str, head: str = HEAD) -> Recipe:
    return parse_recipe(head + steps)


MOVED = (
    f"{PRUNED}  - cut\n  - transfer: {{data: {DATA}, epochs: 8, lr: 0.1}}\n"
    "  - finetune: {epochs: 1, features: 1}\n"
)
WHOLE = recipe(MOVED + TAIL)


class Stop:
    """A Progress that presses Ctrl-C after so many batches of the step."""

    def __init__(self, step: str, after: int) -> None:
        self.step, self.left, self.there = step, after, False

    def start(self, title: str, total: int) -> None:
        self.there = self.there or title.endswith(self.step)

    def advance(self, note: str = "") -> None:
        self.left -= self.there
        if self.left < 0:
            raise KeyboardInterrupt

    def finish(self, summary: str) -> None:
        self.there = False

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "out"
    run_recipe(WHOLE, out)
    return out


def dense_of(plan_head: dict[str, Any]) -> torch.nn.Module:
    model = load_model("neuroprune.tasks.nets:tiny_resnet", kwargs={"classes": 4})
    set_head(model, Head(**plan_head))
    return model


def test_the_artifact_says_that_the_head_is_new_and_verifies(finished: Path) -> None:
    manifest, problems = read_manifest(finished / "artifact")
    assert not problems
    assert manifest.model.head == {"module": "head", "outputs": 3}
    assert read_json(finished / "artifact" / "manifest.json")["schema"] == 2
    assert manifest.preprocessing["classes"] == ["7", "8", "9"]
    report = verify_artifact(finished / "artifact")
    assert report.ok, str(report)
    plain = load_model("neuroprune.tasks.nets:tiny_resnet", kwargs={"classes": 4})
    assert verify_artifact(finished / "artifact", model=plain).ok


def test_the_plan_is_the_one_that_was_cut_and_undo_gives_the_transferred_dense_network(finished: Path) -> None:
    cut, moved = (Plan.load(finished / "steps" / name / "plan.json") for name in ("04-cut", "05-transfer"))
    assert cut.removed == moved.removed != {}
    assert cut.fingerprint != moved.fingerprint
    dense = load_tensors(finished / "undo" / "dense.safetensors")
    trained = load_tensors(finished / "steps" / "05-transfer" / "dense.safetensors")
    assert all(torch.equal(dense[name], trained[name]) for name in trained)
    model = apply(Plan.load(finished / "undo" / "plan.json"), dense_of({"module": "head", "outputs": 3}))
    again = restore(moved, model, dense).state_dict()
    assert all(torch.equal(again[name], dense[name]) for name in dense)


def test_both_networks_learnt_the_new_data(finished: Path) -> None:
    results = read_json(finished / "results.json")
    labels = [curve["label"] for curve in results["curves"] if curve["step"] == "05-transfer"]
    assert labels == ["transfer of the dense network", "transfer of the pruned network"]
    accuracy = next(row for row in results["table"] if row["metric"] == "Accuracy (test)")
    assert accuracy["before"] > 60
    assert accuracy["after"] > 60


@pytest.mark.parametrize(("step", "batches"), [("transfer", 10), ("transfer", 30), ("finetune", 1)])
def test_interrupted_and_resumed_the_bytes_are_the_same(
    finished: Path, tmp_path: Path, step: str, batches: int
) -> None:
    """In the training of the dense network, of the pruned one, and after the step is done."""
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run_recipe(recipe(MOVED), out, progress=Stop(step, batches))
    run_recipe(recipe(MOVED), out, resume=True)
    moved = [f"steps/05-transfer/{name}" for name in ("weights.safetensors", "dense.safetensors", "plan.json")]
    for name in (*moved, "steps/06-finetune/weights.safetensors", "undo/dense.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_masks_stay_in_force_on_the_new_data(tmp_path: Path, granularity: str) -> None:
    steps = (
        "  - train: {epochs: 1}\n"
        f"  - initialise: {{granularity: {granularity}}}\n"
        f"  - rounds: {{granularity: {granularity}, rounds: 1, fraction: 0.5, criterion: l1, "
        "lambda_weight: 500}\n"
        f"  - transfer: {{data: {DATA}, epochs: 1}}\n  - finetune: {{epochs: 1}}\n"
    )
    run_recipe(recipe(steps), tmp_path / "out")
    before = load_tensors(tmp_path / "out" / "steps" / "03-rounds" / "masks.safetensors")
    after = load_tensors(tmp_path / "out" / "steps" / "04-transfer" / "masks.safetensors")
    assert sum(float((mask == 0).sum()) for mask in before.values()) > 0
    assert after["head.weight"].shape == (3, 16)
    assert all(torch.equal(after[name], before[name]) for name in before if name != "head.weight")
    for step in ("04-transfer", "05-finetune"):
        weights = load_tensors(tmp_path / "out" / "steps" / step / "weights.safetensors")
        assert all(not weights[name][mask == 0].any() for name, mask in after.items())


def test_masked_on_the_old_data_and_cut_on_the_new(tmp_path: Path) -> None:
    steps = f"{PRUNED}  - transfer: {{data: {DATA}, epochs: 1}}\n  - cut\n"
    made = run_recipe(recipe(steps), tmp_path / "out").model.state_dict()
    plan = Plan.load(tmp_path / "out" / "steps" / "05-cut" / "plan.json")
    plain = apply(plan, dense_of({"module": "head", "outputs": 3})).state_dict()
    assert {name: t.shape for name, t in plain.items()} == {name: t.shape for name, t in made.items()}


@pytest.mark.parametrize("cut", ["  - cut\n", ""])
def test_a_frozen_body_stays_bit_for_bit(tmp_path: Path, cut: str) -> None:
    run_recipe(recipe(f"{PRUNED}{cut}  - transfer: {{data: {DATA}, epochs: 2, freeze: true}}\n"), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "steps").iterdir())
    source = tmp_path / "out" / "steps"
    for before, after in (
        (source / names[-2] / "weights.safetensors" if cut else source / "03-rounds" / "weights.safetensors",
         source / names[-1] / "weights.safetensors"),
        (source / "01-train" / "weights.safetensors", source / names[-1] / "dense.safetensors"),
    ):  # fmt: skip
        old, new = load_tensors(before), load_tensors(after)
        assert [name for name in old if not torch.equal(old[name], new[name])] == ["head.bias", "head.weight"]


def test_before_anything_is_pruned_one_training_serves_both(tmp_path: Path) -> None:
    result = run_recipe(
        recipe(f"  - train: {{epochs: 1}}\n  - transfer: {{data: {DATA}, epochs: 1}}\n  - initialise\n"),
        tmp_path / "out",
    )
    record = read_json(tmp_path / "out" / "steps" / "02-transfer" / "record.json")
    assert len(record["pieces"]["curves"]) == 1
    assert result.model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("data: {spec: digit}", ["digits", "recipe:"]),
        ("data: {spec: digits, classes: [1, 12]}", ["no example of class 12"]),
        ("data: {spec: 'npz:absent.npz'}", ["there is no file or folder absent.npz"]),
    ],
)
def test_what_cannot_be_gone_to_is_said_before_anything_is_trained(
    tmp_path: Path, options: str, parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run_recipe(recipe(f"  - train: {{epochs: 1000}}\n  - transfer: {{{options}}}\n"), tmp_path / "out")
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out" / "steps").exists()


def test_recipes_that_make_no_sense() -> None:
    for steps, part in (
        ("  - transfer: {epochs: 1}\n", "data in step transfer"),
        (f"  - export\n  - transfer: {{data: {DATA}}}\n", "after it wrote files"),
        (f"  - transfer: {{data: {DATA}, min_delta: 1.0}}\n", "nothing without patience"),
        ("  - finetune: {features: 1.0, distill: false}\n", "nothing without distill"),
        ("  - train: {milestones: [0.5, 1.5]}\n", "less than 1"),
    ):
        with pytest.raises(UserError, match=part):
            recipe(steps)


def test_the_shipped_recipes_of_transfer_can_be_pointed_at_other_data() -> None:
    path = shipped_recipes()["transfer"]
    changed = load_recipe(
        path, ["data.spec=cifar10:FOLDER", "steps.transfer.data.spec=cifar10:FOLDER", "model.kwargs.channels=3"]
    )
    assert changed.header.data is not None
    assert changed.header.data.spec == "cifar10:FOLDER"
    mnist = load_recipe(shipped_recipes()["mnist-to-digits"], ["data.spec=mnist:FILE"])
    assert mnist.header.data is not None
    assert mnist.header.data.spec == "mnist:FILE"
