"""Several processes train one network: the curve of one process, written by one, ended with a message."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neuroprune.base.files import read_json
from neuroprune.tasks.load import load_task

pytestmark = pytest.mark.extras
pytest.importorskip("accelerate")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(self.conv, nn.Conv2d(6, 8, 3), nn.ReLU())
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        if self.training:
            import os, sys
            print(f"rank {os.environ.get('RANK', '0')} has {len(x)}", file=sys.stderr)
        return self.head(self.norm(self.body(x).mean((2, 3))))

def slow():
    return SlowNet()

class SlowNet(Net):
    def forward(self, x):
        import time
        time.sleep(0.02)
        return super().forward(x)

def closed():
    net = Net()
    net.register_forward_hook(lambda module, args, out: out)
    return net
"""
RECIPE = """
name: shared
threads: 1
model: {{spec: "net.py:{net}"}}
data: {{spec: digits, batch_size: 50}}
steps:
  - train: {{epochs: {epochs}, lr: 0.05, momentum: 0.9, weight_decay: 0.01}}
  - initialise
  - score: {{criterion: l2}}
  - select: {{ratio: 0.5}}
  - cut
  - finetune: {{epochs: 2, distill: true}}
"""


#: training examples of the digits
SAMPLES = load_task("digits").train.samples


def _prepared(folder: Path, net: str = "Net", epochs: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET)
    (folder / "recipe.yaml").write_text(RECIPE.format(net=net, epochs=epochs))
    return folder


def _command(processes: int, *words: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    return [*(torchrun if processes > 1 else [sys.executable, "-m"]), "neuroprune", "run", "recipe.yaml", *words]


def _run(folder: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        _command(processes, *words), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def _curves(folder: Path, *steps: str) -> list[list[dict[str, Any]]]:
    records = [read_json(folder / "out" / "steps" / step / "record.json") for step in steps]
    return [record["pieces"]["curves"][0]["epochs"] for record in records]


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in str(path))


def test_two_processes_draw_the_curve_of_one_and_only_the_first_writes(tmp_path: Path) -> None:
    alone, both = _prepared(tmp_path / "alone"), _prepared(tmp_path / "both")
    assert _run(alone, 1, "--out", "out").returncode == 0
    done = _run(both, 2, "--out", "out")
    assert done.returncode == 0, done.stderr
    for step in ("01-train", "06-finetune"):
        (one,), (two,) = _curves(alone, step), _curves(both, step)
        for key in ("train_loss", "val_loss"):
            assert [e[key] for e in two] == pytest.approx([e[key] for e in one], rel=2e-4)
        assert [e["train_metric"] for e in two] == pytest.approx([e["train_metric"] for e in one], abs=0.3)
    assert _files(both) == _files(alone)
    had = {rank: [int(n) for n in re.findall(rf"rank {rank} has (\d+)", done.stderr)] for rank in (0, 1)}
    last = SAMPLES % 50
    epoch = [25] * (SAMPLES // 50) + [last - last // 2]
    assert had[1] == epoch * 5  # three epochs and two; the first process also proves its cut in training mode
    assert had[0].count(25) >= 5 * (SAMPLES // 50)
    assert had[0].count(last // 2) >= 5


def test_a_killed_process_ends_the_run_with_a_message_and_resume_goes_on(tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "killed", "slow", 6)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        _command(2, "--out", "out"), cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    checkpoint = folder / "out"
    deadline = time.monotonic() + 120
    while not list(checkpoint.rglob("checkpoint.json")):
        assert time.monotonic() < deadline, "no epoch was finished"
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        time.sleep(0.02)
    os.kill(_child(running.pid, "1"), signal.SIGKILL)
    _, errors = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "a process that shared the training is gone" in errors
    assert "--resume" in errors
    done = _run(folder, 2, "--out", "out", "--resume")
    assert done.returncode == 0, done.stderr
    whole = _prepared(tmp_path / "whole", "slow", 6)
    assert _run(whole, 2, "--out", "out").returncode == 0
    (resumed,), (other,) = _curves(folder, "01-train"), _curves(whole, "01-train")
    assert [e["val_loss"] for e in resumed] == [e["val_loss"] for e in other]


def _child(parent: int, rank: str) -> int:
    """The process of this rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            above = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if above == parent and f"RANK={rank}".encode() in words:
            return int(path.name)
    raise AssertionError(f"no process of rank {rank}")


def test_what_cannot_be_sent_is_refused_with_a_way_out(tmp_path: Path) -> None:
    done = _run(_prepared(tmp_path, "closed"), 2, "--out", "out")
    assert done.returncode != 0
    assert "cannot be sent to the other processes" in done.stderr
    assert "without torchrun" in done.stderr
