"""Peak memory of the statistics pass and of the whole closed form against the number of calibration samples.

    python benchmarks/statistics_memory.py [--samples 256 1024 8192] [--stages statistics closed-form]

ResNet-20 on batches that are made when they are asked for, so that the data itself takes no part (random weights:
only the memory counts). ``statistics``: the pass that sums second moments of every layer and the rankings by
structured OBS; ``closed-form``: `prune_to_budget` at half the multiply-accumulates. One process per figure; the
largest resident memory as the system counts it, less what was resident before the work began. Results go to
benchmarks/results/statistics_memory.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from measuring.children import Report, peak_mb, run_child
from measuring.cifar import CifarResNet
from measuring.lazily import Lazily
from measuring.records import RESULTS, versions
from torch import nn

from neuroprune.base.files import read_json, write_json
from neuroprune.base.nouns import Budget
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.graph import trace
from neuroprune.recover.refit import consumptions, dense_moments, rank_groups
from neuroprune.recover.replay import Replay
from neuroprune.recover.sites import find_sites

OUT = RESULTS / "statistics_memory.json"
SAMPLES, BATCH = (256, 1024, 8192), 64


def statistics(model: nn.Module, batches: Lazily, samples: int) -> None:
    sites = find_sites(model, lambda net: net(batches[0]))
    found = consumptions(model, trace(model, batches[0][:2]).groups, sites)
    replay = Replay(model, lambda net, batch: net(batch), batches, remember=False)
    rank_groups(model, found, sites, dense_moments(replay, sites, samples, 0))


def closed_form(model: nn.Module, batches: Lazily, samples: int) -> None:
    prune_to_budget(model, batches, Budget(macs=0.5))


STAGES = {"statistics": statistics, "closed-form": closed_form}


def one(stage: str, samples: int, report: Report) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batches = CifarResNet(20).eval(), Lazily(samples, BATCH)
    trace(model, batches[0][:2])  # what the engine imports and remembers is not the pass's
    before, began = peak_mb(), time.process_time()
    STAGES[stage](model, batches, samples)
    report.tell(before_mb=before, more_mb=round(peak_mb() - before, 1), cpu_s=time.process_time() - began)
    report.tell(status="done")


def sweep(options: argparse.Namespace) -> None:
    known: dict[str, Any] = read_json(OUT) if OUT.exists() else {}
    for stage in options.stages:
        for samples in options.samples:
            record = run_child([__file__, "--one", stage, str(samples)], options.limit_s)
            known.setdefault(stage, {})[str(samples)] = {**record, "versions": versions()}
            write_json(OUT, known)
            print(
                stage,
                samples,
                {k: record.get(k) for k in ("before_mb", "more_mb", "cpu_s", "problem")},
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="+", type=int, default=list(SAMPLES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--limit-s", type=float, default=900)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]), Report(options.out))
    else:
        sweep(options)


if __name__ == "__main__":
    main()
