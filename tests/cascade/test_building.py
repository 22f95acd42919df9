"""What cannot be a cascade is said before any work; what goes wrong half-way leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cascade_nets import digits, trained
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.cascade import build
from neuroprune.cascade.build import CascadeOptions, build_cascade
from neuroprune.cascade.runner import CascadeRunner
from neuroprune.tasks.agreement import without_labels
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task

OPTIONS = CascadeOptions(levels=(0.3, 1.0), examples=128, seconds=0.02)


def small_task(x: Tensor, y: Tensor | None = None, **more: Any) -> Task:
    tensors = (x,) if y is None else (x, y)
    batches = TensorBatches(tensors, 32, shuffle=False, seed=0)
    return Task("small", batches, batches, batches, (x[:2],), **more)


def mlp(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs)).eval()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), x


X, Y = torch.randn(64, 4), torch.randint(0, 3, (64,))


@pytest.mark.parametrize(
    ("model", "task", "says"),
    [
        (mlp(1), small_task(X, X[:, :1], loss=lambda b, y: (y - b[1]).square().mean()), "class scores"),
        (Two(), small_task(X, Y), "class scores"),
        (mlp(), small_task(X, Y, evaluate=lambda model, batches: 1.0, metric="F1"), "judged otherwise"),
        (mlp(), small_task(X * float("nan"), Y), "NaN"),
        (mlp(), small_task(X, Y + 5), "label"),
    ],
)
def test_what_is_no_cascade(model: nn.Module, task: Task, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        build_cascade(model, task, tmp_path / "c", OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (replace(OPTIONS, levels=(1.0,)), "no levels"),
        (replace(OPTIONS, lose=()), "no losses"),
        (replace(OPTIONS, lose=(-1.0,)), "no losses"),
        (replace(OPTIONS, lose=(float("nan"),)), "no losses"),
        (replace(OPTIONS, precision="fp8"), "unknown precision"),  # type: ignore[arg-type]
        (replace(OPTIONS, threads=0), "threads is too small"),
        (replace(OPTIONS, examples=0), "examples is too small"),
        (replace(OPTIONS, seconds=-1.0), "seconds is too small"),
    ],
)
def test_options_out_of_range(options: CascadeOptions, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        build_cascade(mlp(), small_task(X, Y), tmp_path / "c", options)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        build_cascade(mlp(), small_task(X, Y), tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_stopped_half_way_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "operating_points", stop)
    with pytest.raises(KeyboardInterrupt):
        build_cascade(mlp(), small_task(X, Y), tmp_path / "c", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def thresholds(runner: CascadeRunner) -> list[float]:
    """What does not depend on this machine's speed."""
    return [
        *(level["temperature"] for level in runner.levels),
        *(point.threshold for name, point in runner.points.items() if name.startswith("path")),
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], CascadeRunner]:
    """Cut once: of the same network, data and options the same levels come out."""
    from neuroprune.cascade.levels import nested_levels

    levels = nested_levels(trained(), build.first_examples(digits().train, 128), OPTIONS.levels)

    def build_on(task: Task) -> CascadeRunner:
        folder = tmp_path_factory.mktemp("built")
        batches = build.first_examples(task.train, 128)
        build.write_cascade(folder, levels, trained(), task, batches, OPTIONS)
        return CascadeRunner.load(folder)

    return build_on


def test_test_data_decide_nothing(built: Callable[[Task], CascadeRunner]) -> None:
    task = digits()
    inputs, labels = (torch.cat([batch[part] for batch in task.test.epoch(None)]) for part in (0, 1))
    wrong = TensorBatches((inputs, (labels + 1) % 10), 64, shuffle=False, seed=0)
    right, confused = built(task), built(replace(task, test=wrong))
    assert thresholds(right) == thresholds(confused)
    assert confused.document["test"]["dense"]["accuracy"] < 20 < right.document["test"]["dense"]["accuracy"]


def test_without_labels_the_dense_network_is_right(built: Callable[[Task], CascadeRunner]) -> None:
    runner = built(without_labels(digits(), trained()))
    assert runner.document["right_is"] == "the dense network's class"
    assert runner.document["dense"]["accuracy"] == 100
    assert runner.points["level-1"].accuracy == 100
    batches = list(digits().val.epoch(None))
    with torch.no_grad():
        wanted = torch.cat([trained()(x).argmax(1) for x, _ in batches]).numpy()
    answer = runner(torch.cat([x for x, _ in batches]).numpy(), point="level-0")
    assert 100 * np.mean(answer.outputs.argmax(1) == wanted) == pytest.approx(runner.points["level-0"].accuracy)


def test_one_class_alone(tmp_path: Path) -> None:
    """The small network is as right as the large one, whatever it says: nothing is worth asking further."""
    model, same = mlp(), torch.zeros(64, dtype=torch.long)
    with torch.no_grad():
        model[-1].bias[0] += 50
    runner = build_cascade(model, small_task(X, same), tmp_path / "c", OPTIONS)
    assert runner.points["path-0-1"].shares == (1.0, 0.0)
    assert runner.points["lose-0"].accuracy == 100


class Pair(nn.Module):
    """Two inputs: [N, 4] and [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 12), nn.Linear(2, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head((self.a(x) + self.b(y)).relu())


def test_several_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, more = Pair().eval(), torch.randn(64, 2)
    batches = [((X[n : n + 16], more[n : n + 16]), Y[n : n + 16]) for n in range(0, 64, 16)]
    task = make_task(
        train=batches, val=batches, example_inputs=(X[:2], more[:2]), forward=lambda net, batch: net(*batch[0])
    )
    runner = build_cascade(model, task, tmp_path / "c", OPTIONS)
    assert [value["shape"] for value in runner.document["inputs"]] == [["batch", 4], ["batch", 2]]
    with torch.no_grad():
        wanted = model(X, more).numpy()
    assert runner([X.numpy(), more.numpy()], point="level-1").outputs == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UserError, match="different numbers of examples"):
        runner([X.numpy(), more[:3].numpy()])
    with pytest.raises(UserError, match="takes 2 inputs"):
        runner(X.numpy())
