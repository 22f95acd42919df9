"""The whole job without training, without labels, or with neither: Python and command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, neuroprune
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import neuroprune as package
from neuroprune import Budget, UserError
from neuroprune.base.files import read_json
from neuroprune.pipeline.choose import choose_recipe
from neuroprune.tasks.agreement import Agreement, without_labels
from neuroprune.tasks.load import load_task
from neuroprune.tasks.make import make_task
from neuroprune.tasks.nets import tiny_resnet
from neuroprune.tasks.task import Task

TINY = "neuroprune.tasks.nets:tiny_resnet"


def task_of(x: Tensor) -> Task:
    return make_task(train=x, val=x, evaluate=lambda model: 0.0)


class Shift(nn.Module):
    """Scores of three classes; ``by`` moves the first."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1] + self.by, x[:, 1:]], dim=1)


def test_agreement_is_the_share_of_the_same_predictions() -> None:
    x = torch.tensor([[0.0, 1.0, -1.0], [0.0, 3.0, -1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    task = without_labels(task_of(x), Shift(0.0))
    assert (task.metric, task.metric_unit, task.has_labels) == ("agreement", "%", False)
    assert task.evaluate(Shift(0.0), task.val) == 100.0
    assert task.evaluate(Shift(2.0), task.val) == 75.0  # the first row alone turns over
    assert task.evaluate(Shift(5.0), task.val) == 50.0


def test_agreement_of_what_is_no_scores_is_one_less_the_error() -> None:
    x = torch.tensor([[1.0], [-1.0], [3.0], [-3.0]])
    task, double = task_of(x), nn.Linear(1, 1)
    with torch.no_grad():
        double.weight.fill_(2.0)
        double.bias.zero_()
    judge = Agreement(double, task.forward)
    assert judge(double, task.val) == pytest.approx(100.0)
    with torch.no_grad():
        double.weight.fill_(1.8)  # the judge holds a copy
    assert judge(double, task.val) == pytest.approx(99.0)  # an error of a tenth, squared
    with torch.no_grad():
        double.weight.fill_(-2.0)
    assert judge(double, task.val) == 0.0


def steps_of(**options: object) -> list[str]:
    recipe = choose_recipe(name="n", budget=Budget(macs=0.5), max_drop=1.0, **options)  # type: ignore[arg-type]
    return [next(iter(step)) for step in recipe["steps"]]


@pytest.mark.parametrize(
    ("options", "rungs"),
    [
        ({"no_train": True}, ["prune_to_budget", "reconstruct"]),
        ({"no_train": True, "recover": "closed-form"}, ["prune_to_budget"]),
        ({"recover": "distill"}, ["prune_to_budget", "reconstruct", "distill"]),
        ({"recover": "distill", "epochs": 3}, ["prune_to_budget", "reconstruct", "distill", "finetune"]),
        ({"data_labels": "none"}, ["prune_to_budget", "reconstruct", "distill"]),
        ({"data_labels": "none", "no_train": True}, ["prune_to_budget", "reconstruct"]),
    ],
)
def test_which_steps_are_chosen(options: dict[str, object], rungs: list[str]) -> None:
    assert steps_of(**options) == [*rungs, "export", "quantize", "validate", "measure", "document", "report"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_train": True, "recover": "distill"}, "distillation trains"),
        ({"no_train": True, "epochs": 2}, "no_train forbids"),
        ({"no_train": True, "train_epochs": 2}, "no_train forbids"),
        ({"data_labels": "none", "train_epochs": 2}, "without labels"),
        ({"recover": "destill"}, "did you mean 'distill'"),
        ({"data_labels": "some"}, "use or none"),
    ],
)
def test_what_excludes_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        steps_of(**options)
    assert message in str(caught.value)


def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(tiny_resnet().state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_images_in_a_plain_folder_are_enough(tmp_path: Path) -> None:
    """No class folders, no labels, no training: an artifact, a report, and the proof."""
    images = tmp_path / "photos"
    images.mkdir()
    generator = np.random.default_rng(0)
    for number in range(60):
        pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03d}.png")
    done = neuroprune(
        "compress", TINY, "--weights", str(weights(tmp_path)), "--data", f"folder:{images}", "--labels", "none",
        "--no-train", "--budget", "macs=0.6", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = read_json(tmp_path / "out" / "results.json")
    rows = {row["metric"]: row for row in results["table"]}
    assert rows["Agreement (test)"]["before"] == 100.0
    assert rows["MACs"]["after"] <= 0.6 * rows["MACs"]["before"]
    assert {row["rung"] for row in results["recovered"]} == {"closed form", "reconstruction"}
    assert "What recovery without labels made good" in (tmp_path / "out" / "report.html").read_text()
    checked = neuroprune("verify", "out", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    again = neuroprune("run", "out/recipe.yaml", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    plans = [read_json(tmp_path / run / "artifact" / "plan.json") for run in ("out", "again")]
    assert plans[0] == plans[1]


def test_the_labels_of_the_data_are_not_looked_at(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 255, (50, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "plain.npz", x=x)
    np.savez(tmp_path / "wrong.npz", x=x, y=np.full(50, 999))
    for file in ("plain", "wrong"):
        task = load_task(f"npz:{tmp_path / file}.npz", labels=False)
        assert task.train.samples + task.val.samples + task.test.samples == 50
    with pytest.raises(UserError, match="lacks the arrays"):
        load_task(f"npz:{tmp_path / 'plain'}.npz")


def test_from_python_on_tensors_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = tiny_resnet().eval(), torch.randn(96, 1, 8, 8)
    result = package.compress(
        model, train=x[:64], val=x[64:], labels="none", no_train=True, recover="closed-form",
        budget=Budget(macs=0.8), max_drop=None, out=tmp_path / "out",
    )  # fmt: skip
    assert result.met, result.text
    assert {row["metric"] for row in result.measurements} >= {"Agreement (val)"}


def test_rungs_without_a_cut_and_a_missing_budget_are_refused(tmp_path: Path) -> None:
    recipe = f"name: n\nmodel: {{spec: '{TINY}'}}\ndata: {{spec: digits, limit: 60}}\nsteps:\n"
    (tmp_path / "a.yaml").write_text(recipe + "  - reconstruct\n")
    fails(
        "run", "a.yaml", cwd=tmp_path, says=["needs what no step before it gives", "prune_to_budget", "a.yaml:5"]
    )
    (tmp_path / "b.yaml").write_text(recipe + "  - prune_to_budget\n")
    fails("run", "b.yaml", cwd=tmp_path, says=["prune_to_budget has no budget", "b.yaml:5"])


def test_recipe_only_says_it_all(tmp_path: Path) -> None:
    done = neuroprune(
        "compress", TINY, "--data", "digits", "--labels", "none", "--budget", "macs=0.5", "--recipe-only",
        "--out", "chosen", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "chosen" / "recipe.yaml").read_text()
    assert "labels: none" in text
    assert "distill" in text
