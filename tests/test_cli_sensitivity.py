"""``neuroprune sensitivity``: what it writes and prints, interrupted and resumed, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import fails, neuroprune

from neuroprune import Sensitivity
from neuroprune.pipeline.sensitivity import Sensitivity as Seen

TINY = "neuroprune.tasks.nets:tiny_resnet"
COMMAND = ("sensitivity", TINY, "--data", "digits", "--limit", "120", "--ratios", "0.25,0.75")


def test_it_writes_curves_and_a_page_and_prints_the_most_sensitive(tmp_path: Path) -> None:
    done = neuroprune(*COMMAND, "--out", "s", "--keep", "stem*", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["sensitivity.html", "sensitivity.json"]
    found = Sensitivity.load(tmp_path / "s" / "sensitivity.json")
    assert found.complete
    assert found.metric == "accuracy"
    assert found.examples == 30  # the validation split alone
    assert not any(curve.group.startswith("stem") for curve in found.curves)
    assert found.ranked()[0].group in done.stdout
    assert "measured" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["s/sensitivity.json", "s/sensitivity.html"]
    page = (tmp_path / "s" / "sensitivity.html").read_text()
    assert all(curve.group in page for curve in found.curves)
    assert "tiny_resnet" in page


def test_without_labels_outputs_are_compared(tmp_path: Path) -> None:
    done = neuroprune(*COMMAND, "--out", "s", "--labels", "none", "--recover", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = Sensitivity.load(tmp_path / "s" / "sensitivity.json")
    assert (found.metric, found.dense) == ("", None)
    assert all(point.metric is None for curve in found.curves for point in curve.points)
    assert any(curve.refitted for curve in found.curves)
    assert "no labels" in done.stdout
    fails(*COMMAND, "--labels", "none", "--criterion", "snip", cwd=tmp_path, says=["needs a loss"])


def test_data_with_a_figure_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n"
        "x = torch.randn(40, 3)\n"
        "def build() -> nn.Module:\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))\n"
        "def task():\n"
        "    return dict(train=(x, x[:, :1]), val=(x, x[:, :1]), loss=lambda b, y: (y - b[1]).square().mean(),\n"
        "                evaluate=lambda m: -float((m(x) - x[:, :1]).square().mean()), metric='-MSE')\n"
    )
    done = neuroprune("sensitivity", "own.py:build", "--data", "own.py:task", "--out", "s", "--ratios", "0.5",
                      cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Sensitivity.load(tmp_path / "s" / "sensitivity.json")
    assert found.dense is not None
    assert found.dense < 0
    assert found.curves[0].points[0].agreement is None


def test_ctrl_c_keeps_what_is_measured_and_resume_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert neuroprune(*COMMAND, "--out", "whole", cwd=tmp_path).returncode == 0
    saves = 0
    save = Seen.save

    def stopping(found: Seen, path: Path) -> None:
        nonlocal saves
        saves += 1
        save(found, path)
        if saves == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Seen, "save", stopping)
        done = neuroprune(*COMMAND, "--out", "part", cwd=tmp_path)
    assert done.returncode == 130
    assert "go on with: neuroprune sensitivity" in done.stderr
    assert "--out part --resume" in done.stderr
    part = Sensitivity.load(tmp_path / "part" / "sensitivity.json")
    assert sum(len(curve.points) for curve in part.curves) == 3
    assert neuroprune(*COMMAND, "--out", "part", "--resume", cwd=tmp_path).returncode == 0
    for name in ("sensitivity.json", "sensitivity.html"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    fails(*COMMAND[:-1], "0.5,1.5", cwd=tmp_path, says=["above 0 and below 1", "0.5, 1.5"])
    fails(*COMMAND[:-1], "half", cwd=tmp_path, says=["cannot read --ratios half", "0.1,0.3"])
    fails(*COMMAND, "--labels", "all", cwd=tmp_path, says=["unknown --labels all", "none"])
    fails(*COMMAND, "--criterion", "l3", cwd=tmp_path, says=["did you mean 'l"])
    fails(*COMMAND, "--keep", "nothing", cwd=tmp_path, says=["matches nothing"])
    fails("sensitivity", TINY, "--data", "digts", cwd=tmp_path, says=["did you mean 'digits'"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    fails(*COMMAND, "--out", "full", cwd=tmp_path, says=["is not empty", "notes.txt"])
    assert neuroprune(*COMMAND, "--out", "s", cwd=tmp_path).returncode == 0
    fails(*COMMAND, "--out", "s", "--criterion", "l1", "--resume", cwd=tmp_path,
          says=["measured otherwise", "criterion"])  # fmt: skip


def test_list_shows_allocations_and_budgets(tmp_path: Path) -> None:
    allocations = neuroprune("list", "allocations", cwd=tmp_path).stdout
    for name in ("stream", "uniform", "global", "erk", "lamp", "sensitivity", "dp"):
        assert f"\n  {name} " in allocations
    assert "\n  macs " in neuroprune("list", "budgets", cwd=tmp_path).stdout
    every = neuroprune("list", cwd=tmp_path).stdout
    assert "allocations:" in every
    assert "budgets:" in every


def test_a_curve_of_the_file_is_plain_json(tmp_path: Path) -> None:
    assert neuroprune(*COMMAND, "--out", "s", cwd=tmp_path).returncode == 0
    text = json.loads((tmp_path / "s" / "sensitivity.json").read_text())
    assert text["kind"] == "measured"
    assert set(text["curves"][0]["points"][0]) == {"ratio", "removed", "divergence", "agreement", "metric"}
