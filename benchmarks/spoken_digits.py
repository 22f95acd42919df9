"""Run the recipe `spoken-digits` as a user would, and write its figures: S1 on a 1-D signal.

    python benchmarks/spoken_digits.py [--seeds 0 1 2] [--data ../shared/data/fsdd.npz]

Each seed is a process of its own; accuracies, bytes, counts and latencies are read from the run's results.json,
CPU time is the operating system's. benchmarks/results/spoken_digits.json is written after every seed, and a seed
that is in it already is not run again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring.cifar import DATA
from measuring.records import RESULTS, plain, versions

from neuroprune.base.files import read_json, write_json
from neuroprune.devices.facts import machine_facts

OUT = RESULTS / "spoken_digits.json"


def one_run(seed: int, data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out, before = Path(folder) / "run", resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "neuroprune", "run", "spoken-digits", "--out", str(out),
                   "--set", f"data.spec=fsdd:{data}", "--set", f"seed={seed}"]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 3):  # 3: a limit was missed, which is a figure, not a failure
            raise SystemExit(f"the recipe ended with {done.returncode}:\n{done.stderr}")
        results = read_json(out / "results.json")
    return {"seed": seed, "met": results["verdict"]["ok"], "table": results["table"],
            "variants": results["variants"],
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=DATA / "fsdd.npz")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = read_json(OUT)["runs"] if OUT.exists() else []
    for seed in options.seeds:
        if seed not in [run["seed"] for run in runs]:
            runs.append(one_run(seed, options.data.resolve()))
            found = {"runs": runs, "versions": versions("onnxruntime"), "machine": machine_facts()}
            write_json(OUT, plain(found))
            print(seed, {row["metric"]: row["after"] for row in runs[-1]["table"]}, flush=True)


if __name__ == "__main__":
    main()
