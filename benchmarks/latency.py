"""Measured latency: how much of the ideal speed-up is reached, and what a trained network loses for it.

    python benchmarks/latency.py shapes                     # random weights: 30, 50, 80 % of the filters removed
    python benchmarks/latency.py trained --shares 0.5 0.36  # pretrained CIFAR networks pruned to a latency
    python benchmarks/latency.py shapes --networks vgg16@32 --again all

ONNX Runtime, one thread, batch 1, CPU time; all files of a network, the dense fp32 control among them, in one
interleaved run. One process per record, one line of JSON each in benchmarks/results/latency.jsonl. ``trained``:
unlabelled training images calibrate, and distillation goes on with all others and the JPEG copies of the training
images; accuracy on the lossless test images. ``--recover finetune`` goes on from `reconstruct` instead: a few
epochs over the same images with their labels and the dense network as teacher.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cifar, latency_tables
from measuring.children import Report, add_sweep_options, run_child, sweep_or_one
from measuring.finetuning import finetune
from measuring.records import RESULTS, Records, commit, to_do, versions
from measuring.shapes import shape
from torch import Tensor, nn
from training_free import calibration

from neuroprune.base.nouns import Budget
from neuroprune.budget.exported import ExportedFiles, Variant
from neuroprune.budget.kinds import Setting
from neuroprune.budget.kinds.latency import LatencyBudget
from neuroprune.budget.problem import Costs, layers_of
from neuroprune.budget.target import Target
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.devices import DEVICES
from neuroprune.devices.facts import machine_facts
from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule
from neuroprune.graph import cost, trace
from neuroprune.pruning import Plan, allocate, apply, prune, score
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.fit import Distill, FitConfig
from neuroprune.recover.reconstruct import ReconstructConfig

KEY = latency_tables.KEY
NETWORKS = {"shapes": ("vgg16@32", "vgg16@224", "vgg16-three@224", "resnet18@32", "resnet18@224"),
            "trained": ("resnet20@32", "resnet56@32")}  # fmt: skip
REMOVED = (0.3, 0.5, 0.8)
SHARES = (0.5, 0.4, 0.36, 0.3)
#: of ONNX Runtime's kernels for both precisions
MULTIPLE = 8
SECONDS, BATCH = 12.0, 64
#: of the rungs with gradients; distillation looks at every training image there is, once and mirrored once
RECONSTRUCT, DISTILL = {"steps": 600, "lr": 3e-3, "batch": 64}, {"epochs": 1, "lr": 1e-3}

#: with labels and a teacher, on every training image; not tuned (an epoch takes minutes)
FINETUNE = FitConfig(epochs=6, lr=2e-3, optimizer="adamw", weight_decay=1e-4, distill=Distill())


def without(model: nn.Module, inputs: Tensor, share: float) -> tuple[nn.Module, Plan]:
    """At least ``share`` of the filters gone, evenly from all layers, in multiples of ``MULTIPLE``; proven."""
    found = trace(model, inputs)
    scores = score(model, found, "l2")
    for ratio in np.arange(share, 0.99, 0.005).tolist():
        plan = allocate(model, found, scores, ratio, round_to=MULTIPLE)
        if filters(apply(plan, copy.deepcopy(model))) <= (1 - share) * filters(model):
            result = prune(model, inputs, ratio, round_to=MULTIPLE)
            return result.model, result.plan
    raise SystemExit(f"{share:.0%} of the filters cannot go")


def filters(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def timed(files: dict[str, Path], inputs: list[np.ndarray], seconds: float) -> dict[str, dict[str, float]]:
    """ms and speed-up over the dense fp32 file of the same run."""
    found = DEVICES.get("local").measure(files, inputs, threads=1, seconds=seconds)
    dense = found["dense fp32"].cpu_p50_ms
    return {
        name: {"p50_ms": one.cpu_p50_ms, "p90_ms": one.cpu_p90_ms, "runs": one.runs,
               "times_faster": dense / one.cpu_p50_ms, "bytes": files[name].stat().st_size}
        for name, one in found.items()
    }  # fmt: skip


def predicted(model: nn.Module, inputs: Tensor, plans: dict[str, Plan], precision: Any) -> dict[str, float]:
    """Sums of the latency table over the layers, ms, unscaled."""
    setting = Setting(
        model,
        (inputs,),
        lambda net, x: net(x),
        [inputs],
        Target(precision=precision, cache=RESULTS.parent / ".cache"),
    )
    groups = trace(model, inputs).groups
    layers = layers_of(model, groups)
    surfaces = LatencyBudget().surfaces(layers, setting)
    each = [
        lambda rows, columns, own=surfaces[layer.name]: sum(s.at(rows, columns) for s in own) for layer in layers
    ]
    costs = Costs(layers, {"latency": each}, {})
    found = {"dense": costs.total("latency", np.zeros(len(groups), dtype=int))}
    for name, plan in plans.items():
        kept = {decision.group: len(decision.kept) for decision in plan.decisions}
        removed = np.array([group.size - kept.get(group.name, group.size) for group in groups])
        found[name] = costs.total("latency", removed)
    return found


def measure_shapes(network: str, report: Report) -> None:
    name, size = network.split("@")
    model, inputs = shape(name, int(size)), torch.randn(2, 3, int(size), int(size))
    dense, plans, models = cost(model, inputs), {}, {"dense": model}
    for share in REMOVED:
        label = f"{share:.0%}"
        models[label], plans[label] = without(model, inputs, share)
    rows: dict[str, dict[str, Any]] = {}
    for label, one in models.items():
        counted = cost(one, inputs)
        rows[label] = {"removed": 1 - filters(one) / filters(model), "macs": counted.macs,
                       "ideal": dense.macs / counted.macs}  # fmt: skip
    files = ExportedFiles((inputs,), lambda net, x: net(x), [torch.randn(4, 3, int(size), int(size))])
    paths = {
        f"{label} {precision}": files.path(Variant(one, precision))  # type: ignore[arg-type]
        for label, one in models.items()
        for precision in ("fp32", "int8")
    }
    times = timed(paths, files.inputs(model), SECONDS * (1 if int(size) < 100 else 3))
    table = {precision: predicted(model, inputs, plans, precision) for precision in ("fp32", "int8")}
    for label, row in rows.items():
        for precision in ("fp32", "int8"):
            found = times[f"{label} {precision}"]
            row[precision] = found | {
                "of_ideal": found["times_faster"] / row["ideal"],
                "table_ms": table[precision][label],
            }
    report.tell(status="done", rows=rows)


def measure_trained(network: str, share: float, precision: Any, recover: Any, report: Report) -> None:
    dense = cifar.resnet(int(network.split("@")[0].removeprefix("resnet")))
    batches = calibration(0)
    began = time.process_time()
    target = Target(precision=precision, calibration=512)
    rung = "reconstruct" if recover == "finetune" else recover
    result = prune_to_budget(
        dense, batches, Budget(latency=share), recover=rung, target=target, seed=0,
        reconstruction=ReconstructConfig(seed=0, **RECONSTRUCT), distillation=DistillConfig(seed=0, **DISTILL),
        more=cifar.Mirrored(cifar.normalised(cifar.every_training_image()[0]), BATCH, 0),
    )  # fmt: skip
    if recover == "finetune":
        images, classes = cifar.every_training_image()
        finetune(result.model, dense, cifar.normalised(images), torch.from_numpy(classes), FINETUNE)
    seconds = time.process_time() - began
    files = ExportedFiles((batches[0][:2],), lambda net, x: net(x), batches, calibration=512)
    models = {"dense": dense, "pruned": result.model}
    paths = {f"{label} {kind}": files.path(Variant(one, kind))  # type: ignore[arg-type]
             for label, one in models.items() for kind in ("fp32", "int8")}  # fmt: skip
    times = timed(paths, files.inputs(dense), SECONDS)
    _, _, tests, labels = cifar.lossless()
    rows = {}
    wanted = cifar.predictions(dense, tests)
    for name, path in paths.items():
        session = OnnxModule(EXPORTS.get("onnx").load(path))
        given = cifar.predictions(session, tests)
        rows[name] = times[name] | {
            "accuracy": percent(given == labels), "agreement": percent(given == wanted),
            "lost": int(((wanted == labels) & (given != labels)).sum()),
            "won": int(((wanted != labels) & (given == labels)).sum()),
        }  # fmt: skip
    ratio = cost(dense, tests[:1]).macs / cost(result.model, tests[:1]).macs
    report.tell(
        status="done", rows=rows, examples=len(labels), macs_ratio=ratio, cpu_s=seconds,
        exact=result.verification.exact, blocks_gone=len(result.plan.bypassed), budget=result.costs["latency"],
        stages_s={stage: round(value, 1) for stage, value in result.seconds.items()}, notes=list(result.notes),
    )  # fmt: skip


def percent(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())


def keys_of(options: argparse.Namespace) -> list[tuple[Any, ...]]:
    if options.cell == "shapes":
        return [("shapes", network, None, None, None) for network in options.networks or NETWORKS["shapes"]]
    return [
        ("trained", network, share, options.precision, options.recover)
        for network in options.networks or NETWORKS["trained"]
        for share in options.shares
    ]


def sweep(options: argparse.Namespace) -> None:
    records = Records(RESULTS / "latency.jsonl", KEY)
    for key in to_do(keys_of(options), records.by_key(), options.again, commit()):
        words = [__file__, options.cell, "--one", "--networks", key[1]]
        if key[2] is not None:
            words += ["--shares", str(key[2]), "--precision", key[3], "--recover", key[4]]
        record = run_child(words, options.limit_s)
        record |= dict(zip(KEY, key, strict=True)) | {
            "versions": versions("onnxruntime"),
            "cpu": machine_facts()["cpu"],
        }
        record.pop("stage", None)
        records.put(record)
        print(*key, record["status"], record.get("seconds"), record.get("problem", ""), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", choices=("shapes", "trained"))
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--recover", default="distill", help="a rung, or finetune")
    add_sweep_options(parser, limit_s=3600)
    return parser.parse_args()


def measure(options: argparse.Namespace, report: Report) -> None:
    if options.cell == "shapes":
        measure_shapes(options.networks[0], report)
    else:
        measure_trained(options.networks[0], options.shares[0], options.precision, options.recover, report)


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    sweep_or_one(options, sweep, measure, cifar.DATA if options.cell == "trained" else None)


if __name__ == "__main__":
    main()
