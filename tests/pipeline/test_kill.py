"""kill -9 at any moment, then --resume, ends in the bytes of a run that nobody touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPE = """\
name: kill
seed: 5
model: {spec: "neuroprune.tasks.nets:tiny_resnet", kwargs: {width: 8}}
data: {spec: digits, limit: 300, batch_size: 32}
budget: {latency: 0.9, macs: 0.6}
max_drop: 100
attempts: 2
steps:
  - train: {epochs: 4}
  - initialise
  - rounds: {rounds: 2, fraction: 0.1, epochs: 2}
  - score: {batches: 2}
  - fit_budget: {max_ratio: 0.6, tolerance: 0.3, seconds: 0.1, batches: 2}
  - cut
  - transfer: {data: {spec: digits, limit: 200, batch_size: 32, classes: [9, 3, 5]}, epochs: 2, patience: 1}
  - finetune: {epochs: 4, features: 0.5}
  - cluster: {k: 16, epochs: 2}
  - export
  - quantize: {calibration: 32}
  - validate
  - measure: {seconds: 0.2}
  - document
  - report
"""
MOST_KILLS = 40


class Server:
    """Starts runs; see forkserver.py."""

    def __init__(self, log: Path) -> None:
        script = Path(__file__).with_name("forkserver.py")
        pipe = subprocess.PIPE
        single = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        words = [sys.executable, str(script)]
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=single)
        self.log = log
        assert self._read() == "ready"

    def start(self, *arguments: str) -> int:
        """Process id, which is also that of the process group."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"arguments": arguments, "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """Exit code of the run that was started last; minus the signal that ended it."""
        return int(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "log")
    yield server
    server.close()


def run_to_the_end(server: Server, *arguments: str) -> None:
    """With the budget met or not: so small a network's latency is a matter of luck."""
    server.start(*arguments)
    assert server.wait() in (0, 3), server.log.read_text()


def kill_group(pid: int) -> None:
    for send in (os.killpg, os.kill):  # os.kill: the child has not made its group yet
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)
            return


def kill_and_resume(server: Server, recipe: Path, out: Path, moments: random.Random) -> list[int]:
    """Kill until the run ends by itself, or often enough; how far it had come at each kill."""
    longest = 0.5
    stages: list[int] = []
    while len(stages) < MOST_KILLS:
        before = progress_of(out)
        pid = server.start("run", str(recipe), "--out", str(out), "--resume")
        time.sleep(moments.uniform(0.02, longest))
        kill_group(pid)
        if server.wait() != -signal.SIGKILL:
            break
        stages.append(len(list(out.glob("steps/*/record.json"))))
        # a moment that is never reached is never tested: wait longer where nothing was finished
        longest *= 1.4 if progress_of(out) == before else 0.8
    return stages


def progress_of(out: Path) -> tuple[int, int]:
    journal = out / "journal.jsonl"
    return len(list(out.glob("steps/*/record.json"))), journal.stat().st_size if journal.exists() else 0


def test_killed_at_random_moments_ends_byte_identical(tmp_path: Path, server: Server) -> None:
    recipe, killed, whole = tmp_path / "recipe.yaml", tmp_path / "killed", tmp_path / "whole"
    recipe.write_text(RECIPE)
    kills = kill_and_resume(server, recipe, killed, random.Random(11))
    assert len(kills) >= 10
    assert len(set(kills)) >= 3, kills  # they were spread over the run
    run_to_the_end(server, "run", str(recipe), "--out", str(killed), "--resume")
    journal = killed / "journal.jsonl"
    run_to_the_end(server, "run", str(recipe), "--out", str(whole), "--replay", str(journal))
    for name in ("weights.safetensors", "plan.json"):
        assert (killed / "artifact" / name).read_bytes() == (whole / "artifact" / name).read_bytes(), name
    assert (whole / "journal.jsonl").read_bytes() == journal.read_bytes()  # nothing had to be measured again
    steps = [sorted(path.name for path in (run / "steps").iterdir()) for run in (killed, whole)]
    assert steps[0] == steps[1]
