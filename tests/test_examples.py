"""The examples run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from neuroprune.base.files import read_json

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_data_on_the_command_line(tmp_path: Path) -> None:
    spec = EXAMPLES / "own_data.py"
    words = ["compress", f"{spec}:network", "--data", f"{spec}:waves", "--train-epochs", "3", "--epochs", "2"]
    words += ["--budget", "params=0.5", "--max-drop", "5", "--out", "run"]
    out = run("-m", "neuroprune", *words, cwd=tmp_path)
    assert out.rstrip().endswith("report.html")
    rows = {row["metric"]: row for row in read_json(tmp_path / "run" / "results.json")["table"]}
    assert rows["Parameters"]["after"] <= 0.5 * rows["Parameters"]["before"]
    assert "ok   model" in run("-m", "neuroprune", "verify", "run/artifact", cwd=tmp_path)


def test_own_loop_from_python(tmp_path: Path) -> None:
    out = run(str(EXAMPLES / "own_loop.py"), "run", cwd=tmp_path)
    assert "All limits hold" in out
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000


def test_any_model_is_cut_trained_on_and_loaded(tmp_path: Path) -> None:
    out = run(str(EXAMPLES / "prune_any_model.py"), "saved", cwd=tmp_path)
    assert "4 heads of 8 in each layer" in out
    assert "loaded again, same outputs: True" in out
    plan = read_json(tmp_path / "saved" / "plan.json")
    heads = {d["group"]: len(d["removed"]) for d in plan["decisions"] if d["group"].endswith(".attention.qkv")}
    assert set(heads.values()) == {4}
    assert {"exact", "statistics"} <= set(out.split())
