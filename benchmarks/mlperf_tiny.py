"""The networks of MLPerf Tiny at fewer multiply-accumulates, without training and after short fine-tuning.

    python benchmarks/mlperf_tiny.py                       # what is not yet measured
    python benchmarks/mlperf_tiny.py --models resnet8 --ratios 2 --methods finetune --subsets 0

Data and weights: ../shared/data (see README.md there). DS-CNN calibrates on 300 of its 1,000 keyword samples
without labels and is tested on the other 700; ResNet8 calibrates on 2,048 training images without labels and is
tested on the 1,017 lossless test images. ``finetune`` goes on from the closed form with labels and distillation,
on the lossless training images and the JPEG copies of all 50,000. Nothing is chosen on test data. ``ratio``: dense
MACs over pruned MACs. One process per figure, one thread, CPU seconds; one line of JSON each in
benchmarks/results/mlperf_tiny.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import cifar, mlperf
from measuring.children import Report, run_child, sweep_or_one
from measuring.finetuning import finetune
from measuring.mlperf import Data
from measuring.records import RESULTS, Records, commit, to_do, versions
from torch import Tensor, nn
from training_free import CONTROLS, control

from neuroprune.base.nouns import Budget
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.graph import cost
from neuroprune.recover.fit import Distill, FitConfig

MODELS = {
    "ds-cnn": (mlperf.keyword_net, mlperf.keyword_data, 50),
    "resnet8": (mlperf.image_net, mlperf.image_data, 64),
}
#: how counts are chosen; ``tried``: the better of two on trial, and 40 other choices
CHOICES: dict[str, dict[str, Any]] = {name: {"allocation": name} for name in ALLOCATIONS.names()} | {
    "tried": {"allocation": ("stream", "sensitivity"), "tries": 40}
}
RATIOS = (1.2, 1.3, 1.5, 2.0, 3.0)
RUNGS = ("closed-form", "reconstruct", "distill")
SUBSETS = 5
KEY = ("model", "method", "allocation", "ratio", "subset")
#: the rate lies between two that did equally well on held-out training images; few runs, for each takes minutes
FINETUNE = FitConfig(epochs=15, lr=2e-3, optimizer="adamw", weight_decay=1e-4, distill=Distill())
#: a search takes minutes: at the ratios that the targets speak of
TRIED = {"ds-cnn": (1.3, 1.5, 2.0), "resnet8": (1.5, 2.0)}
FINETUNED = {(ratio, subset) for ratio in (2.0, 3.0) for subset in range(3)}


def makes_sense(model: str, method: str, allocation: str, ratio: float, subset: int) -> bool:
    """L1 knows no allocation, and a search takes minutes; labels for training are there for images only."""
    if method in CONTROLS:
        return allocation == "stream"
    if method == "finetune":
        return model == "resnet8" and allocation == "tried" and (ratio, subset) in FINETUNED
    return allocation == "stream" or ratio in TRIED[model]


def pruned(
    name: str, dense: nn.Module, data: Data, options: argparse.Namespace
) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a method makes, and what is told of it."""
    method, ratio, subset = options.methods[0], options.ratios[0], options.subsets[0]
    batches = list(data.calibration.split(MODELS[name][2]))
    if method in CONTROLS:
        return control(dense, method, ratio, batches, subset), {}
    rung = "closed-form" if method == "finetune" else method
    result = prune_to_budget(
        dense, batches, Budget(macs=1 / ratio), recover=rung, seed=subset, **CHOICES[options.allocations[0]]
    )
    if method == "finetune":
        finetune(result.model, dense, *mlperf.every_training_image(), replace(FINETUNE, seed=subset))
    kept = {d.group: [len(d.kept), len(d.kept) + len(d.removed)] for d in result.plan.decisions}
    return result.model, {"exact": result.verification.exact, "kept": kept}


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    name = options.models[0]
    make, held, _ = MODELS[name]
    dense, data = make(), held(options.subsets[0])
    wanted = cifar.predictions(dense, data.test)
    began = time.process_time()
    small, facts = pruned(name, dense, data, options)
    seconds = time.process_time() - began
    given = cifar.predictions(small, data.test)
    hits, dense_hits = given == data.labels, wanted == data.labels
    one = data.test[:1]
    report.tell(
        status="done", cpu_s=seconds, **facts, examples=len(hits),
        dense_accuracy=_percent(dense_hits), accuracy=_percent(hits), agreement=_percent(given == wanted),
        lost=int((dense_hits & ~hits).sum()), won=int((hits & ~dense_hits).sum()),
        macs_ratio=cost(dense, one).macs / cost(small, one).macs,
    )  # fmt: skip


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())


def sweep(options: argparse.Namespace) -> None:
    records = Records(RESULTS / "mlperf_tiny.jsonl", KEY)
    choices = (options.models, options.methods, options.allocations, options.ratios, options.subsets)
    keys = [key for key in itertools.product(*choices) if makes_sense(*key)]
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = [__file__, "--one"]
        for name, value in zip(KEY, key, strict=True):
            words += [f"--{name}s", str(value)]
        record = run_child(words, options.limit_s)
        record |= dict(zip(KEY, key, strict=True)) | {"versions": versions()}
        records.put(record)
        shown = " ".join(f"{k} {record[k]:.2f}" for k in ("accuracy", "agreement", "cpu_s") if k in record)
        print(*key, record["status"], shown, record.get("problem", ""), flush=True)


def parsed() -> argparse.Namespace:
    methods = (*CONTROLS[1:], "none", *RUNGS, "finetune")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=methods, default=[m for m in methods if m != "none"])
    parser.add_argument("--allocations", nargs="+", choices=CHOICES, default=["stream", "tried"])
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--subsets", nargs="+", type=int, default=list(range(SUBSETS)))
    parser.add_argument("--again", nargs="*", default=[], help="statuses to measure again, stale, or all")
    parser.add_argument("--limit-s", type=float, default=1200)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, mlperf.FOLDER)


if __name__ == "__main__":
    main()
