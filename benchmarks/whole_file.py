"""E2: the whole coded file against the dense fp32 file, at no more than a point lost: ResNet-56 and ResNet-20.

    python benchmarks/whole_file.py                                # what is not yet measured
    python benchmarks/whole_file.py --networks resnet20 --ratios 1.37 --ks 8
    python benchmarks/tables.py                                    # docs/size.md from the records

The label-free result of `finetune.py`: pruned, refitted, reconstructed and distilled without labels. Then
k-means leaves ``k`` values per tensor, which are trained for a few epochs on the same training images, still
without labels; export, int8, `model.npc`. What is judged is the file that comes out of unpacking, in ONNX
Runtime, on the 1,017 lossless test images; nothing is chosen on them. Beside it the dense network's own files
and those of the pruned network without k-means. One line of JSON per (network, ratio, k, seed) in
benchmarks/results/whole_file.jsonl. E1, VGG-16, comes out of `s4.py`.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from finetune import label_free, task_of, training
from measuring import cifar
from measuring.children import Report, add_sweep_options, run_child, sweep_or_one
from measuring.records import RESULTS, Records, commit, to_do, versions
from torch import Tensor, nn
from training_free import MODELS

import neuroprune
from neuroprune.compression.cluster import cluster_weights
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.devices.facts import machine_facts
from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule
from neuroprune.pipeline.steps.quantize import clustered
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.recover.held_clusters import HeldClusters

FILE = RESULTS / "whole_file.jsonl"
KEY = ("network", "ratio", "k", "seed")
CELLS = (("resnet56", 2.1, 16), ("resnet56", 2.1, 8), ("resnet20", 1.37, 16), ("resnet20", 1.37, 8))
#: of the values that k-means found, without labels; the rate is for sums of gradients
VALUES = FitConfig(5, lr=1e-3, weight_decay=0.0, distill=Distill(4.0, 1.0))


def packed(model: nn.Module, folder: Path, calibration: list[Tensor]) -> dict[str, Any]:
    """Bytes of the files of ``model``, and the accuracy of what comes out of the coded one."""
    plain, int8, npc, again = (folder / name for name in ("m.onnx", "m.int8.onnx", "m.npc", "again.onnx"))
    EXPORTS.get("onnx").write(model, (calibration[0][:2],), plain)
    batches = [(batch.numpy(),) for batch in calibration[:8]]
    quantize_onnx(plain, int8, batches, originals=clustered(model))
    neuroprune.pack(int8, npc)
    neuroprune.unpack(npc, again)
    _, _, images, labels = cifar.lossless()
    given = cifar.predictions(OnnxModule(EXPORTS.get("onnx").load(again)), images)
    right = int((given == labels).sum())
    return {
        "fp32_bytes": plain.stat().st_size, "int8_bytes": int8.stat().st_size, "npc_bytes": npc.stat().st_size,
        "same_bytes": again.read_bytes() == int8.read_bytes(), "accuracy": 100 * right / len(labels),
        "right": right, "examples": len(labels),
    }  # fmt: skip


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    network, ratio, k, seed = options.networks[0], options.ratios[0], options.ks[0], options.seeds[0]
    dense, calibration = MODELS[network].load(), MODELS[network].calibration(seed)
    began = time.process_time()
    model = label_free(network, ratio, seed)[0]
    before = copy.deepcopy(model)
    found = cluster_weights(model, k=k)
    report.tell(stage="values")
    hook = HeldClusters(model, [book.tensors for book in found.books])
    fit(model, task_of(training(False, seed)), replace(VALUES, seed=seed), teacher=dense, hook=hook)
    model.eval()
    seconds = time.process_time() - began
    with tempfile.TemporaryDirectory() as name:
        rows = {}
        for label, one in (("dense", dense), ("pruned", before), ("clustered", model)):
            (Path(name) / label).mkdir()
            rows[label] = packed(one, Path(name) / label, calibration)
    report.tell(
        status="done", rows=rows, cpu_s=seconds, distinct=found.summed_after,
        times_smaller=rows["dense"]["fp32_bytes"] / rows["clustered"]["npc_bytes"],
    )  # fmt: skip


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    cells = [
        (network, ratio, k) for network, ratio, k in CELLS
        if network in options.networks and (not options.ratios or ratio in options.ratios)
        and (not options.ks or k in options.ks)
    ]  # fmt: skip
    keys = [(*cell, seed) for seed in options.seeds for cell in cells]
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = ["--networks", key[0], "--ratios", str(key[1]), "--ks", str(key[2]), "--seeds", str(key[3])]
        record = run_child([__file__, "--one", *words], options.limit_s) | dict(zip(KEY, key, strict=True))
        record |= {"versions": versions("onnxruntime", "constriction"), "cpu": machine_facts()["cpu"]}
        record.pop("stage", None)
        records.put(record)
        print(
            *key,
            record["status"],
            record.get("times_smaller"),
            record.get("rows", record.get("problem")),
            flush=True,
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ratios", nargs="+", type=float, default=[])
    parser.add_argument("--ks", nargs="+", type=int, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    add_sweep_options(parser, limit_s=10_800)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, cifar.DATA)


if __name__ == "__main__":
    main()
