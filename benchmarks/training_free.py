"""Pruned networks without training: accuracy and agreement of every method and every rung of ours.

    python benchmarks/training_free.py                     # what is not yet measured
    python benchmarks/training_free.py --models resnet20 --ratios 2.1 --methods closed-form --subsets 0
    python benchmarks/training_free.py --table             # means over the calibration subsets

Data and weights: ../shared/data (see README.md there). Calibration on training images without labels, nothing is
chosen on test images; accuracy on the lossless test images, agreement (the dense network's own prediction) on
those and, with --jpeg, on the 10,000 JPEG test images. ``ratio``: dense MACs over pruned MACs. One process per
figure, one thread, CPU seconds; one line of JSON each in benchmarks/results/training_free.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measuring import cifar
from measuring.children import Report, Stopped, run_child
from measuring.records import RESULTS, Records, commit, to_do, versions
from torch import Tensor, nn

from neuroprune.base.nouns import Budget
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.graph import cost, trace
from neuroprune.pruning import allocate, apply, score
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.reconstruct import ReconstructConfig
from neuroprune.recover.statistics import reestimate_batch_norm

MODELS = {"resnet20": 20, "resnet56": 56}
RATIOS = (1.2, 1.37, 2.1, 3.0, 4.0)
CONTROLS = ("random", "l1", "l1+bn")
RUNGS = ("none", "closed-form", "reconstruct", "distill")
SUBSETS, EXAMPLES, BATCH = 5, 2048, 64
KEY = ("model", "method", "ratio", "subset")
#: of the rungs with gradients
RECONSTRUCT, DISTILL = {"steps": 600, "lr": 2e-3, "batch": 64}, {"epochs": 2, "lr": 3e-4}


def calibration(subset: int) -> list[Tensor]:
    """``EXAMPLES`` training images, half of them mirrored; no labels."""
    generator = torch.Generator().manual_seed(subset)
    images = cifar.lossless()[0]
    chosen = images[torch.randperm(len(images), generator=generator)[:EXAMPLES]]
    mirrored = torch.rand(EXAMPLES, generator=generator) < 0.5
    chosen = torch.where(mirrored.view(-1, 1, 1, 1), chosen.flip(3), chosen)
    return list(chosen.split(BATCH))


def control(model: nn.Module, method: str, ratio: float, batches: list[Tensor], seed: int) -> nn.Module:
    """A uniform share of every group by random, L1, or L1 and batch norm estimated anew, at the same MACs."""
    inputs = batches[0][:2]
    found, dense = trace(model, inputs), cost(model, inputs).macs
    scores = score(model, found, method.split("+")[0], seed=seed)
    low, high = 0.0, 0.98
    for _ in range(12):
        middle = (low + high) / 2
        plan = allocate(model, found, scores, middle)
        small = apply(plan, copy.deepcopy(model))
        low, high = (middle, high) if cost(small, inputs).macs * ratio > dense else (low, middle)
    small = apply(allocate(model, found, scores, high), copy.deepcopy(model))
    if method.endswith("+bn"):
        reestimate_batch_norm(small, batches)
    return small.eval()


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    depth, method, ratio, subset = (
        MODELS[options.models[0]],
        options.methods[0],
        options.ratios[0],
        options.subsets[0],
    )
    model, batches = cifar.resnet(depth), calibration(subset)
    _, _, images, labels = cifar.lossless()
    wanted = cifar.predictions(model, images)
    began, wall = time.process_time(), time.perf_counter()
    facts: dict[str, Any] = {}
    if method in CONTROLS:
        small = control(model, method, ratio, batches, subset)
    else:
        result = prune_to_budget(
            model, batches, Budget(macs=1 / ratio), recover=method, seed=subset,
            reconstruction=ReconstructConfig(seed=subset, **RECONSTRUCT),
            distillation=DistillConfig(seed=subset, **DISTILL),
        )  # fmt: skip
        small = result.model
        stages = {stage: round(value, 1) for stage, value in result.seconds.items()}
        facts = {"exact": result.verification.exact, "stages_s": stages}
    seconds = {"cpu_s": time.process_time() - began, "wall_s": time.perf_counter() - wall}
    given = cifar.predictions(small, images)
    right, dense_right = given == labels, wanted == labels
    report.tell(
        status="done", **seconds, **facts,
        dense_accuracy=_percent(dense_right), accuracy=_percent(right), agreement=_percent(given == wanted),
        lost=int((dense_right & ~right).sum()), won=int((right & ~dense_right).sum()), examples=len(labels),
        macs_ratio=cost(model, images[:1]).macs / cost(small, images[:1]).macs,
    )  # fmt: skip
    if options.jpeg:
        blurred = cifar.jpeg_test()
        report.tell(
            jpeg_agreement=_percent(cifar.predictions(model, blurred) == cifar.predictions(small, blurred))
        )


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: mean (standard deviation) over the calibration subsets."""
    rows = defaultdict(list)
    for record in records:
        if record["status"] == "done":
            rows[(record["model"], record["ratio"], record["method"])].append(record)
    order = {method: number for number, method in enumerate((*CONTROLS, *RUNGS))}
    lines = ["| model | MACs | method | accuracy | drop | agreement | JPEG agreement | CPU s | subsets |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for (model, ratio, method), group in sorted(rows.items(), key=lambda item: (*item[0][:2], order[item[0][2]])):
        drop = statistics.mean(r["dense_accuracy"] - r["accuracy"] for r in group)
        means = [_mean(group, key) for key in ("agreement", "jpeg_agreement")]
        cells = [model, f"{ratio:g}x fewer", method, _mean(group, "accuracy"), f"{drop:.2f}", *means]
        cells += [_mean(group, "cpu_s", 0), len(group)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _mean(group: list[dict[str, Any]], key: str, digits: int = 2) -> str:
    values = [record[key] for record in group if record.get(key) is not None]
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def sweep(options: argparse.Namespace) -> None:
    records = Records(RESULTS / "training_free.jsonl", KEY)
    keys = [
        (model, method, ratio, subset)
        for subset in options.subsets
        for model in options.models
        for ratio in options.ratios
        for method in options.methods
    ]
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = [__file__, "--one"]
        for name, value in zip(("--models", "--methods", "--ratios", "--subsets"), key, strict=True):
            words += [name, str(value)]
        record = run_child([*words, *(["--jpeg"] if options.jpeg else [])], options.limit_s)
        record |= dict(zip(KEY, key, strict=True)) | {"versions": versions()}
        record.pop("stage", None)
        records.put(record)
        shown = " ".join(f"{k} {record[k]:.2f}" for k in ("accuracy", "agreement", "cpu_s") if k in record)
        print(*key, record["status"], shown, record.get("problem", ""), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=(*CONTROLS, *RUNGS), default=[*CONTROLS, *RUNGS])
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--subsets", nargs="+", type=int, default=list(range(SUBSETS)))
    parser.add_argument("--jpeg", action="store_true", help="agreement on the JPEG test images as well")
    parser.add_argument("--again", nargs="*", default=[], help="statuses to measure again, stale, or all")
    parser.add_argument("--limit-s", type=float, default=1800)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.table:
        print(table(Records(RESULTS / "training_free.jsonl", KEY).all()), end="")
    elif not cifar.DATA.exists():
        sys.exit(f"the data is not there: {cifar.DATA}")
    elif options.one:
        measure(options, Report(options.out))
    else:
        try:
            sweep(options)
        except (KeyboardInterrupt, Stopped):
            sys.exit("stopped; what was measured is kept, the same command goes on")


if __name__ == "__main__":
    main()
