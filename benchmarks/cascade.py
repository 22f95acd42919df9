"""Cascades of nested networks: accuracy against measured mean and p90 latency, beside every single network.

    python benchmarks/cascade.py                      # what is not yet measured; levels are made once per machine
    python benchmarks/cascade.py --models resnet56 --precisions int8 --halves 0 --again all
    python benchmarks/tables.py                       # docs/cascade.md from the records

Levels are cut and recovered without labels on training images. Temperatures and thresholds are chosen on one half
of the held images (``half`` 0 or 1, drawn once with seed 0) and reported on the other, so that over both halves
every image is reported on once, by thresholds that it had no part in. ONNX Runtime, one thread, batch 1, CPU time:
every image goes through the file in which the runtime decides, through every level alone and through the dense
network, in turns. One process and one line of JSON per (network, precision, half) in
benchmarks/results/cascade.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import cifar
from measuring.cascade_levels import SUBJECTS, made
from measuring.cascade_tables import FILE, KEY
from measuring.children import Report, add_sweep_options, run_child, sweep_or_one
from measuring.records import Records, commit, to_do, versions
from torch import Tensor

from neuroprune.base.files import read_json
from neuroprune.cascade.build import CascadeOptions, write_cascade
from neuroprune.cascade.runner import DOCUMENT
from neuroprune.devices.facts import machine_facts
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Task

SECONDS = 1.5


def task_of(name: str, inputs: Tensor, labels: Tensor, half: int) -> Task:
    """Validation on one half of the examples, test on the other."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    chosen, reported = order[half::2].sort().values, order[1 - half :: 2].sort().values
    val, test = (
        TensorBatches((inputs[rows], labels[rows]), 256, shuffle=False, seed=0) for rows in (chosen, reported)
    )
    return Task(name, val, val, test, (inputs[:2],))


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    name, precision, half = options.models[0], options.precisions[0], options.halves[0]
    subject = SUBJECTS[name]()
    levels, facts = made(name)
    report.tell(stage="levels")
    task = task_of(name, *subject.held(), half)
    chosen = CascadeOptions(subject.shares, subject.options, precision=precision, seconds=SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        write_cascade(Path(folder), levels, subject.load(), task, subject.calibration(), chosen)
        found: dict[str, Any] = read_json(Path(folder) / DOCUMENT)
    kept = ("levels", "dense", "gate_ms", "operating_points", "curve", "default", "single_file", "test",
            "validation_examples", "right_is")  # fmt: skip
    report.tell(status="done", made=facts, **{key: found[key] for key in kept})


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    keys = [(m, p, h) for m in options.models for p in options.precisions for h in options.halves]
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = [__file__, "--one", "--models", key[0], "--precisions", key[1], "--halves", str(key[2])]
        record = run_child(words, options.limit_s) | dict(zip(KEY, key, strict=True))
        record |= {"versions": versions("onnxruntime"), "cpu": machine_facts()["cpu"]}
        record.pop("stage", None)
        records.put(record)
        print(*key, record["status"], record.get("seconds"), record.get("problem", ""), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--halves", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    add_sweep_options(parser, limit_s=7200)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, cifar.DATA)


if __name__ == "__main__":
    main()
