"""Evaluations per minute with one and with two Ray workers, one thread each; the target is 1.7 times as many.

    python benchmarks/search_workers.py [--evaluations 20] [--repetitions 5]

ResNet-20 and the points, batches and refit of search.py; the same random points for one worker and for two, in
turns. The workers have the network and the data before the first measurement. Wall time, since that is what a
second worker is for: nothing else may run meanwhile, and the load average before each measurement is recorded.
Results go to benchmarks/results/search_workers.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import deque
from collections.abc import Sequence

from measuring.records import RESULTS, Record, versions
from search import BUDGET, Case

from neuroprune.base.files import write_json
from neuroprune.devices.facts import machine_facts
from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Evaluator
from neuroprune.search.space import Point
from neuroprune.search.workers import RayWorkers

OUT = RESULTS / "search_workers.json"
WORKERS = (1, 2)


def measured(workers: RayWorkers, points: Sequence[Point], slots: int) -> Record:
    """All ``points`` with ``slots`` evaluations in flight."""
    load, began, cpu, running = os.getloadavg()[0], time.perf_counter(), 0.0, 0
    waiting, finished = deque(points), 0
    while finished < len(points):
        while waiting and running < slots:
            workers.start(waiting.popleft())
            running += 1
        for _, result in workers.wait():
            running, finished, cpu = running - 1, finished + 1, cpu + result.seconds
    wall = time.perf_counter() - began
    return {
        "workers": slots,
        "per_minute": 60.0 * finished / wall,
        "wall_s": wall,
        "cpu_s": cpu,
        "load_before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=20, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    case = Case(0)
    strategy = STRATEGIES.get("random")(case.subject.space, BUDGET, 0)
    points = [strategy.ask() for _ in range(options.evaluations)]
    workers = RayWorkers(Evaluator(case.subject, case.judge, BUDGET), slots=max(WORKERS))
    runs: list[Record] = []
    try:
        measured(workers, points[: 2 * max(WORKERS)], max(WORKERS))
        for repetition in range(options.repetitions):
            for slots in WORKERS if repetition % 2 == 0 else WORKERS[::-1]:
                runs.append(measured(workers, points, slots))
                print(f"{slots} workers: {runs[-1]['per_minute']:.1f} evaluations a minute", flush=True)
    finally:
        workers.close()
    median = {str(n): statistics.median(run["per_minute"] for run in runs if run["workers"] == n) for n in WORKERS}
    found = {
        "network": "ResNet-20", "evaluations": options.evaluations, "runs": runs, "per_minute": median,
        "ratio": median["2"] / median["1"], "cores": os.cpu_count(), "machine": machine_facts(),
        "versions": versions("ray"),
    }  # fmt: skip
    write_json(OUT, found)
    print(f"{found['ratio']:.2f} times as many with two workers")


if __name__ == "__main__":
    main()
