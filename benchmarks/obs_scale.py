"""What second order costs as layers grow: seconds of ranking, least squares and the statistics pass.

    python benchmarks/obs_scale.py [--channels 64 128 256 512 1024 2048] [--samples 256 1024 8192]

A layer with as many outputs as input channels, its inputs correlated (a random mixture of half as many sources,
and noise): `rank` (structured OBS, all units, one after another) and `least_squares` (half of the units gone)
against channels, 1x1 and up to 512 channels 3x3; and the pass that sums second moments of ResNet-20's layers
(random weights: only the time counts) against samples. One process per figure, one thread, CPU seconds; results
go to benchmarks/results/obs_scale.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from measuring.children import Report, peak_mb, run_child
from measuring.records import RESULTS, versions
from torch import Tensor

from neuroprune.base.files import read_json, write_json
from neuroprune.recover.moments import Moments, least_squares
from neuroprune.recover.obs import Consumer, rank

OUT = RESULTS / "obs_scale.json"
CHANNELS, SAMPLES = (64, 128, 256, 512, 1024, 2048), (256, 1024, 8192)
#: a 3x3 layer of more channels has a Hessian of over 700 MB
MOST_3X3 = 512
BATCH = 64


def moments(channels: int, kernel: int) -> tuple[Moments, Tensor]:
    """Of inputs to a layer of so many channels and kernel positions, two rows a column; and the layer's weight."""
    columns = channels * kernel
    generator = torch.Generator().manual_seed(columns)
    mix = torch.randn(columns, columns // 2, generator=generator) / (columns // 2) ** 0.5
    weight = torch.randn(1, channels, columns, generator=generator) / columns**0.5
    found = Moments.empty(1, columns, channels)
    for _ in range(8):
        rows = columns // 4
        x = mix @ torch.randn(columns // 2, rows, generator=generator)
        x = (x + 0.3 * torch.randn(columns, rows, generator=generator) + 0.2).relu()[None]
        found.add(x, (weight @ x)[0])
    return found, weight


def layer(channels: int, kernel: int, report: Report) -> None:
    summed, weight = moments(channels, kernel)
    units = torch.arange(channels * kernel).view(channels, kernel)
    report.tell(columns=channels * kernel, before_mb=peak_mb())
    began = time.process_time()
    ranking = rank([Consumer(weight, summed.xx, units)])
    report.tell(rank_cpu_s=time.process_time() - began)
    kept = torch.ones(channels * kernel, dtype=torch.bool)
    kept[units[torch.from_numpy(ranking.order[: channels // 2])].flatten()] = False
    began = time.process_time()
    solution = least_squares(summed, kept)
    report.tell(least_squares_cpu_s=time.process_time() - began, damping=solution.damping, status="done")


def statistics(samples: int, report: Report) -> None:
    from measuring.cifar import CifarResNet
    from measuring.lazily import Lazily

    from neuroprune.recover.refit import dense_moments
    from neuroprune.recover.replay import Replay
    from neuroprune.recover.sites import find_sites

    torch.manual_seed(0)
    model, batches = CifarResNet(20).eval(), Lazily(samples, BATCH)
    began = time.process_time()
    for index in range(len(batches)):
        batches[index]
    making = time.process_time() - began
    sites = find_sites(model, lambda net: net(batches[0]))
    began = time.process_time()
    replay = Replay(model, lambda net, batch: net(batch), batches, remember=False)
    dense_moments(replay, sites, samples, 0)
    report.tell(status="done", statistics_cpu_s=time.process_time() - began - making)


def sweep(options: argparse.Namespace) -> None:
    known: dict[str, Any] = read_json(OUT) if OUT.exists() else {"layers": {}, "samples": {}}
    sizes = [(n, k) for k in (1, 9) for n in options.channels if k == 1 or n <= MOST_3X3]
    for channels, kernel in sizes:
        name = f"{'3x3' if kernel == 9 else '1x1'} {channels}"
        record = run_child([__file__, "--layer", str(channels), str(kernel)], options.limit_s)
        known["layers"][name] = {**record, "channels": channels, "kernel": kernel, "versions": versions()}
        write_json(OUT, known)
        print(name, {k: record.get(k) for k in ("rank_cpu_s", "least_squares_cpu_s", "problem")}, flush=True)
    for samples in options.samples:
        record = run_child([__file__, "--pass", str(samples)], options.limit_s)
        known["samples"][str(samples)] = {**record, "versions": versions()}
        write_json(OUT, known)
        print(samples, record.get("statistics_cpu_s"), record.get("problem", ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", nargs="*", type=int, default=list(CHANNELS))
    parser.add_argument("--samples", nargs="*", type=int, default=list(SAMPLES))
    parser.add_argument("--limit-s", type=float, default=900)
    parser.add_argument("--layer", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pass", dest="examples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.layer:
        layer(*options.layer, Report(options.out))
    elif options.examples:
        statistics(options.examples, Report(options.out))
    else:
        sweep(options)


if __name__ == "__main__":
    main()
