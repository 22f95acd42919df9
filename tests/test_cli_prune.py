"""``neuroprune prune``: what it writes, what it prints, how it is loaded back, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import fails, in_a_process, neuroprune
from safetensors.torch import load_file, save_file

import neuroprune as library
from neuroprune.tasks.models import load_model

MODEL = '''
import torch
from torch import nn


class Net(nn.Module):
    """Two inputs, one of them tokens; one size is written into the forward."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed, self.a = nn.Embedding(11, width), nn.Linear(width, width)
        self.b, self.out = nn.Linear(width, 6), nn.Linear(6, 3)

    def forward(self, tokens, scale):
        x = self.a(self.embed(tokens) * scale).relu()
        return self.out(self.b(x).relu().view(-1, 6))
'''

INPUTS = ("--input", "1,5:int64", "--input", "1,5,1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path


def test_the_folder_holds_plan_weights_report_and_the_way_back(place: Path) -> None:
    dense = load_model(f"{place}/net.py:Net", seed=3)
    save_file(dense.state_dict(), place / "trained.safetensors")
    done = neuroprune(
        "prune",
        "net.py:Net",
        *INPUTS,
        "--ratio",
        "0.5",
        "--weights",
        "trained.safetensors",
        "--out",
        "cut",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == [
        "cut", "net.py", "trained.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in (place / "cut").iterdir()) == [
        "model.safetensors", "plan.json", "report.json", "undo",
    ]  # fmt: skip

    plan = library.Plan.load(place / "cut" / "plan.json")
    small = library.apply(plan, load_model(f"{place}/net.py:Net"))
    small.load_state_dict(load_file(place / "cut" / "model.safetensors"))
    for name, tensor in dense.state_dict().items():
        kept = tensor
        for dim, gone in plan.removed.get(name, {}).items():
            kept = kept.index_select(dim, torch.tensor([i for i in range(kept.shape[dim]) if i not in gone]))
        assert torch.equal(small.state_dict()[name], kept)
    assert small.a.out_features == 4

    written = neuroprune("restore", "cut", "--to", "dense.safetensors", cwd=place)
    assert written.returncode == 0, written.stderr
    again = load_file(place / "dense.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in dense.state_dict().items())
    library.restore(plan, small, again)
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in dense.state_dict().items())


def test_the_report_counts_and_names_what_stays(place: Path) -> None:
    options = (
        "--criterion",
        "l1",
        "--scope",
        "global",
        "--round-to",
        "2",
        "--keep",
        "embed*",
        "--arg",
        "width=16",
    )
    done = neuroprune("prune", "net.py:Net", *INPUTS, *options, "--ratio", "0.4", "--out", "cut", cwd=place)
    assert done.returncode == 0, done.stderr
    report = json.loads((place / "cut" / "report.json").read_text())
    dense = load_model(f"{place}/net.py:Net", kwargs={"width": 16})
    small = library.apply(library.Plan.load(place / "cut" / "plan.json"), dense)
    counts = [sum(p.numel() for p in load_model(f"{place}/net.py:Net", kwargs={"width": 16}).parameters())]
    counts.append(sum(p.numel() for p in small.parameters()))
    assert report["params"] == {"before": counts[0], "after": counts[1]}
    assert report["macs"]["before"] == 5 * (16 * 16 + 16 * 6 + 6 * 3)
    assert report["macs"]["after"] == 5 * (16 * small.a.out_features + small.a.out_features * 6 + 6 * 3)
    assert report["verification"]["exact"] is True
    assert report["verification"]["max_relative_error"] <= 1e-9
    assert report["verification"]["values"] > 0
    assert report["model"] == "net.py:Net"
    assert report["arguments"] == {"width": 16}
    assert report["options"]["criterion"] == "l1"
    assert report["options"]["scope"] == "global"
    assert small.embed.embedding_dim == 16  # --keep
    assert small.a.out_features % 2 == 0  # --round-to
    groups = {row["group"]: row for row in report["groups"]}
    assert groups["a"]["units"] - groups["a"]["removed"] == small.a.out_features
    assert groups["embed"]["removed"] == 0
    stays = [row for row in report["refused"] if row["parameter"] == "b.weight"]
    assert any("net.py:" in row["where"] for row in stays)  # the line with the size
    for row in (f"{counts[0]:,}", f"{counts[1]:,}", "1.", "relative error", "stays whole: b.weight", "net.py:"):
        assert row in done.stdout
    assert done.stdout.splitlines()[-3:] == ["cut/plan.json", "cut/model.safetensors", "cut/report.json"]


def test_inputs_by_name(place: Path) -> None:
    words = ("prune", "net.py:Net", "--input", "scale=1,5,1", "--input", "tokens=1,5:int64", "--out", "cut")
    assert neuroprune(*words, cwd=place).returncode == 0
    assert neuroprune("inspect", "net.py:Net", *words[2:6], cwd=place).stdout.startswith(
        str(11 * 8 + 72 + 54 + 21)
    )
    fails(
        "inspect", "net.py:Net", "--input", "1,5:int64", "--input", "scale=1,5,1", cwd=place,
        says=["some --input have a name", "name all of them"],
    )  # fmt: skip


def test_refusals_of_one_cause_are_one_line_and_ten_at_most(place: Path) -> None:
    lines = ["import torch", "from torch import nn", "", "class Many(nn.Module):", "    def __init__(self):"]
    lines += ["        super().__init__()", "        self.first = nn.Linear(3, 4)"]
    lines += ["        self.parts = nn.ModuleList([nn.Linear(4, 4) for _ in range(12)])"]
    lines += ["    def forward(self, x):", "        x = self.first(x)"]
    lines += [f"        x = self.parts[{i}](x).sort(-1).values" for i in range(12)] + ["        return x"]
    (place / "many.py").write_text("\n".join(lines))
    done = neuroprune("prune", "many.py:Many", "--input", "2,3", "--out", "cut", cwd=place)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "stays whole" in line]
    refused = json.loads((place / "cut" / "report.json").read_text())["refused"]
    causes = {(row["reason"], row["operator"], row["where"]) for row in refused}
    assert len(told) == 10 < len(causes)
    assert f"and {len(causes) - 10} more causes; all of them are in report.json" in done.stdout
    assert "more): " in done.stdout  # a weight and its bias at the same line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--ratio", "1.5"), ["the ratio must be", "value: 1.5"]),
        (("--criterion", "l3"), ["'l3'", "did you mean 'l2'"]),
        (("--criterion", "activation"), ["needs data", "l1 or l2"]),
        (("--scope", "lokal"), ["unknown scope", "local or global"]),
        (("--round-to", "0"), ["round_to", "at least 1"]),
        (("--keep", "embd"), ["keep='embd' matches nothing", "did you mean 'embed'"]),
        (("--on-refuse", "stop"), ["unknown on_refuse", "report or raise"]),
        (("--granularity", "chanel"), ["granularity", "channel"]),
        (("--arg", "width"), ["cannot read --arg width"]),
        (("--weights", "none.safetensors"), ["there is no weights file none.safetensors"]),
        (("--out", "full"), ["the folder full is not empty", "value: mine.txt", "--out"]),
        (("--out", "net.py"), ["net.py is a file, not a folder", "--out"]),
        (("--out", "net.py/deep"), ["net.py is a file, not a folder", "--out"]),
        (("--out", "/proc/nowhere/cut"), ["cannot make the folder cut", "/proc/nowhere", "--out"]),
        (("--input", "3"), ["model fails on the example inputs", "mend"]),
    ],
)  # fmt: skip
def test_errors_are_one_message_and_leave_nothing(place: Path, words: tuple[str, ...], says: list[str]) -> None:
    (place / "full").mkdir()
    (place / "full" / "mine.txt").write_text("mine")
    before = sorted(path.name for path in place.rglob("*") if "__pycache__" not in path.parts)
    fails("prune", "net.py:Net", *INPUTS, "--out", "cut", *words, cwd=place, says=says)
    assert sorted(path.name for path in place.rglob("*") if "__pycache__" not in path.parts) == before


def test_without_out_each_cut_gets_a_folder_of_its_own(place: Path) -> None:
    for expected in ("runs/Net", "runs/Net-2"):
        done = neuroprune("prune", "net.py:Net", *INPUTS, cwd=place)
        assert done.stdout.splitlines()[-3] == f"{expected}/plan.json"


def test_a_cut_that_is_interrupted_while_it_writes_leaves_no_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroprune.pipeline.structure.write_json", interrupted)
    done = neuroprune("prune", "net.py:Net", *INPUTS, "--out", "cut", cwd=place)
    assert done.returncode == 130
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == ["net.py"]


def test_the_same_command_writes_the_same_bytes(place: Path) -> None:
    """In this process and in another, where hashes of strings and addresses differ."""
    for run, out in ((neuroprune, "one"), (in_a_process, "two")):
        done = run("prune", "net.py:Net", *INPUTS, "--criterion", "random", "--out", out, cwd=place)
        assert done.returncode == 0, done.stderr
    for name in ("plan.json", "model.safetensors", "undo/dense.safetensors"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()


def test_the_help_imports_no_torch() -> None:
    code = "import sys; sys.argv = ['neuroprune', 'prune', '--help']\nimport neuroprune.cli\n"
    code += "try:\n    neuroprune.cli.main()\nexcept SystemExit:\n    assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--round-to" in done.stdout
