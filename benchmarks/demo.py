"""Run `neuroprune demo` as a user would and write its figures beside the targets.

    python benchmarks/demo.py [--seeds 0 1 2] [--out benchmarks/results/demo.json]

Each seed is a process of its own; its wall time, CPU time and peak memory (the largest of all its processes) are
the operating system's. Accuracy, bytes and latency are read from the run's results.json. The file is written
after every seed, so an interrupted benchmark keeps what it measured.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neuroprune.base.files import read_json, write_json
from neuroprune.devices.facts import machine_facts

#: the numbers the demo must reach: at most, or at least
TARGETS = {
    "seconds": ("<=", 120),
    "peak_memory_gb": ("<=", 2),
    "accuracy_lost_points": ("<=", 1),
    "times_smaller_file": (">=", 20),
    "times_faster": (">=", 3),
}


def one_run(seed: int) -> dict[str, Any]:
    """The figures of one demo with ``seed``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "neuroprune", "demo", "--out", str(out), "--set", f"seed={seed}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 3):  # 3: a limit was missed, which is a figure, not a failure
            raise SystemExit(f"the demo ended with {done.returncode}:\n{done.stderr}")
        rows = {row["metric"]: row for row in read_json(out / "results.json")["table"]}
    size, latency = rows["File size"], rows["Latency p50 (CPU)"]
    accuracy = next(row for name, row in rows.items() if name.startswith("Accuracy"))
    return {
        "seed": seed,
        "exit_code": done.returncode,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_memory_gb": round(after.ru_maxrss * 1024 / 1e9, 3),
        "accuracy_dense": accuracy["before"],
        "accuracy_compressed": accuracy["after"],
        "accuracy_lost_points": accuracy["before"] - accuracy["after"],
        "times_smaller_file": size["before"] / size["after"],
        "times_faster": latency["before"] / latency["after"],
        "table": list(rows.values()),
    }


def judged(run: dict[str, Any]) -> dict[str, bool]:
    return {
        name: run[name] <= limit if sign == "<=" else run[name] >= limit for name, (sign, limit) in TARGETS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "demo.json")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        run = one_run(seed)
        runs.append({**run, "met": judged(run)})
        targets = {name: f"{sign} {limit}" for name, (sign, limit) in TARGETS.items()}
        write_json(options.out, {"targets": targets, "machine": machine_facts(), "runs": runs})
        print({name: run[name] for name in TARGETS}, "all met" if all(runs[-1]["met"].values()) else "MISSED")


if __name__ == "__main__":
    main()
