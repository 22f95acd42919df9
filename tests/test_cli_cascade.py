"""``neuroprune cascade``: what it writes and prints, and its errors."""

from __future__ import annotations

from pathlib import Path

from commands import fails, neuroprune

from neuroprune import CascadeRunner

TINY = "neuroprune.tasks.nets:tiny_resnet"
COMMAND = ("cascade", TINY, "--data", "digits", "--limit", "200", "--levels", "0.3,1")


def test_it_writes_a_folder_that_runs_and_prints_the_points(tmp_path: Path) -> None:
    done = neuroprune(*COMMAND, "--out", "c", "--labels", "none", "--lose", "0,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "cascade.html", "cascade.json", "cascade.onnx", "level0.onnx", "level1.onnx", "pytorch", "runner.py",
    ]  # fmt: skip
    runner = CascadeRunner.load(tmp_path / "c")
    assert set(runner.points) == {"lose-0", "lose-2", "lose-none", "level-0", "level-1", "path-0-1"}
    assert all(name in done.stdout for name in runner.points)
    assert done.stdout.splitlines()[-2:] == ["c/cascade.json", "c/cascade.html"]
    page = (tmp_path / "c" / "cascade.html").read_text()
    assert all(name in page for name in (*runner.points, "level0.onnx", "the dense network"))


def test_errors(tmp_path: Path) -> None:
    fails(*COMMAND[:-1], "0.5,0.3", cwd=tmp_path, says=["no levels", "ascending"])
    fails(*COMMAND[:-1], "small", cwd=tmp_path, says=["cannot read --levels small"])
    fails(*COMMAND, "--lose", "200", cwd=tmp_path, says=["no losses"])
    fails(*COMMAND, "--budget", "latnecy", cwd=tmp_path, says=["latency"])
    fails(*COMMAND, "--recover", "magic", cwd=tmp_path, says=["unknown recover"])
    fails(*COMMAND, "--labels", "some", cwd=tmp_path, says=["unknown --labels"])
    assert list(tmp_path.iterdir()) == []
