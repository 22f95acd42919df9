"""``neuroprune search`` from the recipe to the files: finished, interrupted, shared, asked for too much."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.base.files import load_tensors
from neuroprune.cli import app
from neuroprune.pipeline.recipe import Recipe, parse_recipe
from neuroprune.pipeline.searching import (
    EVALUATIONS,
    JSON,
    PAGE,
    PLAN,
    WEIGHTS,
    SearchOptions,
    search_into,
    sparkline,
    summary_lines,
)
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import load_undo
from neuroprune.pruning.surgery import apply
from neuroprune.search.evaluate import Evaluator
from neuroprune.search.rewards import Reward
from neuroprune.search.subject import Options
from neuroprune.tasks.models import load_model

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )
"""
RECIPE = """
name: small
model: {{spec: "{folder}/net.py:net"}}
data: {{spec: digits, limit: 200, batch_size: 50}}
budget: {{macs: 0.5}}
steps:
  - initialise
"""


def recipe(folder: Path, *overrides: str, text: str = RECIPE) -> Recipe:
    (folder / "net.py").write_text(NET)
    return parse_recipe(text.format(folder=folder), overrides=overrides)


def options(count: int = 4, strategy: str = "evolution", **more: Any) -> SearchOptions:
    return SearchOptions(strategy, count, examples=100, subject=Options(fitted=50), **more)


def points(folder: Path) -> list[Any]:
    return [json.loads(line)["point"] for line in (folder / EVALUATIONS).read_text().splitlines()]


def test_a_finished_search_leaves_a_network_that_can_be_loaded_and_undone(tmp_path: Path) -> None:
    out, given = tmp_path / "out", recipe(tmp_path)
    done = search_into(out, given, options())
    document = json.loads((out / JSON).read_text())
    assert document["evaluations"] == len(document["curve"]) == len(points(out)) == 4
    assert document["final"]["costs"]["macs"]["now"] <= document["final"]["costs"]["macs"]["limit"]
    assert all(name in (out / PAGE).read_text() for name in ("best so far", "chart-front"))
    dense = load_model(f"{tmp_path}/net.py:net", seed=0)
    small = apply(Plan.load(out / PLAN), load_model(f"{tmp_path}/net.py:net", seed=1)).eval()
    small.load_state_dict(load_tensors(out / WEIGHTS))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(small(x), done.network(x))
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in load_undo(out / "undo").items())
    assert any("limit 0.500" in line for line in summary_lines(done, out))


def test_a_search_interrupted_by_hand_goes_on_with_the_same_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    search_into(whole, recipe(tmp_path), options(6))
    calls: list[int] = []
    evaluate = Evaluator.evaluate

    def third_time(self: Evaluator, point: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, point)

    parts = tmp_path / "parts"
    monkeypatch.setattr(Evaluator, "evaluate", third_time)
    with pytest.raises(Interrupted, match="every finished evaluation is kept"):
        search_into(parts, recipe(tmp_path), options(6))
    assert points(parts) == points(whole)[:2]
    search_into(parts, recipe(tmp_path), options(6), resume=True)
    assert points(parts) == points(whole)
    assert len(calls) == 1 + len({json.dumps(point) for point in points(whole)})  # the interrupted one twice
    assert (parts / PLAN).read_bytes() == (whole / PLAN).read_bytes()


def test_a_search_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    search_into(out, recipe(tmp_path), options(1))
    with pytest.raises(UserError, match="not empty"):
        search_into(out, recipe(tmp_path), options(1))
    for other, what in (
        ((recipe(tmp_path, "seed=1"), options(1)), "seed 0, now 1"),
        ((recipe(tmp_path, "budget.macs=0.4"), options(1)), "budget"),
        ((recipe(tmp_path, "data.limit=150"), options(1)), "other data"),
        ((recipe(tmp_path), options(1, "random")), "strategy evolution, now random"),
        ((recipe(tmp_path), options(1, reward=Reward("sparsity"))), "reward"),
    ):
        with pytest.raises(UserError, match=what):
            search_into(out, *other, resume=True)
    more = search_into(out, recipe(tmp_path), options(3), resume=True)
    assert len(more.found.history) == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"strategy": "evolutoin"}, "did you mean 'evolution'"),
        ({"count": 0}, "at least one evaluation"),
        ({"workers": 2}, "Ray"),
        ({"agent": "sac"}, "only the strategy rl"),
    ],
)
def test_wrong_options_are_found_before_any_work(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        search_into(tmp_path / "out", recipe(tmp_path), options(**wrong))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "says"), [("{macs: 0.0001}", "out of this search's reach"), ("{}", "no budget")]
)
def test_impossible_budgets_are_refused(tmp_path: Path, budget: str, says: str) -> None:
    text = RECIPE.replace("{{macs: 0.5}}", budget.replace("{", "{{").replace("}", "}}"))
    with pytest.raises(UserError, match=says):
        search_into(tmp_path / "out", recipe(tmp_path, text=text), options())


def test_without_labels_the_score_is_agreement(tmp_path: Path) -> None:
    done = search_into(tmp_path / "out", recipe(tmp_path, "data.labels=none"), options(1))
    assert done.document["metric"] == "agreement"
    assert done.found.best[1].figures["metric"] is None


def test_two_processes_do_not_search_in_one_folder_unless_they_share(tmp_path: Path) -> None:
    out = tmp_path / "out"
    search_into(out, recipe(tmp_path), options(1))
    import fcntl

    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process searches"):
            search_into(out, recipe(tmp_path), options(2), resume=True)


@pytest.mark.extras
def test_two_processes_share_a_folder_with_tpe_and_one_may_be_killed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out, file = tmp_path / "out", tmp_path / "small.yaml"
    recipe(tmp_path)
    file.write_text(RECIPE.format(folder=tmp_path))
    words = [sys.executable, "-m", "neuroprune", "search", str(file), "--strategy", "tpe", "--evaluations", "12",
             "--examples", "100", "--fitted", "50", "--out", str(out), "--resume"]  # fmt: skip
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
    while not (out / EVALUATIONS).exists() and first.poll() is None:
        time.sleep(0.05)
    second = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, problem = second.communicate(timeout=300)
    assert second.returncode == 0, problem.decode()
    lines = [json.loads(line) for line in (out / EVALUATIONS).read_text().splitlines()]
    assert len(lines) == json.loads((out / JSON).read_text())["evaluations"] == 12
    results = {json.dumps(line["point"]): line["result"] for line in lines}
    assert 1 < len(results) <= 8  # the space has few points at this budget
    assert all(results[json.dumps(line["point"])] == line["result"] for line in lines)


def test_sparklines_show_the_least_and_the_greatest() -> None:
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert sparkline([5.0]) == "▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 60
    assert sparkline([float(n) for n in range(1000)])[-1] == "█"


def test_the_command_prints_the_curve_and_where_the_files_are(tmp_path: Path) -> None:
    recipe(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE.format(folder=tmp_path))
    words = ["search", str(tmp_path / "small.yaml"), "--strategy", "dp", "--evaluations", "2", "--examples", "100",
             "--fitted", "50", "--kernels", "--seed", "3", "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "best accuracy so far" in done.output
    assert json.loads((tmp_path / "out" / JSON).read_text())["seed"] == 3
    for name in (JSON, PAGE, PLAN, WEIGHTS, EVALUATIONS):
        assert str(tmp_path / "out" / name) in done.output
        assert (tmp_path / "out" / name).is_file()
