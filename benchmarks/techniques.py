"""Every pruning technique at the same densities, beside the same technique choosing at random.

    python benchmarks/techniques.py --networks lenet-300-100      # what is not yet measured
    python benchmarks/techniques.py --networks lenet-300-100 --s1 # S1's own claim, beside rival criteria
    python benchmarks/tables.py                                   # docs/techniques.md from the records

LeNet-300-100 and LeNet-5 learn MNIST here (LeNet-5 a part of it, see `SUBJECTS`); ResNet-20 comes with its
CIFAR-10 weights and is trained further on the 8,068 lossless images. Every method has the same recipe and the same
epochs from the same dense network, which goes on for as many epochs as ``dense``. Nothing is chosen on test
images, the last epoch counts. ``ratio``: dense parameters over parameters left. Latency (seed 0): ONNX Runtime,
one thread, batch 1, CPU time, the dense file interleaved. One line of JSON each in
benchmarks/results/techniques.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import cifar, technique_tables
from measuring.finetuning import augmented
from measuring.records import Record, Records, versions
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.devices import DEVICES
from neuroprune.export import EXPORTS
from neuroprune.graph import cost
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.load import load_task
from neuroprune.tasks.nets import lenet5, lenet_300_100
from neuroprune.tasks.task import Task
from neuroprune.techniques import Setting, Thinned, run_technique

MNIST = cifar.DATA / "mnist.npz"
METHODS, RATIOS, SEEDS = technique_tables.METHODS, (2.0, 4.0, 10.0, 20.0), (0, 1, 2)
#: S1's rounds with these criteria, at half of the weights; the number of rounds is chosen on validation
S1_CRITERIA, S1_ROUNDS = ("activation", "l1", "l2", "wanda", "snip", "taylor", "random"), (1, 2, 4)


@dataclass(frozen=True)
class Subject:
    """``dense(seed)``: the trained network and the weights before training; ``again``: how each method trains
    it."""

    dense: Callable[[int], tuple[nn.Module, dict[str, Any] | None]]
    task: Callable[[], Task]
    again: FitConfig
    blurred: bool = False


def learnt(make: Callable[[], nn.Module], task: Callable[[], Task], config: FitConfig) -> Callable[[int], Any]:
    def dense(seed: int) -> tuple[nn.Module, dict[str, Any]]:
        torch.manual_seed(seed)
        model = make()
        initial = {name: value.clone() for name, value in model.state_dict().items()}
        fit(model, task(), replace(config, seed=seed))
        return model.eval(), initial

    return dense


@functools.cache
def mnist(limit: int | None, batch: int) -> Task:
    return load_task(f"mnist:{MNIST}", batch_size=batch, limit=limit)


@functools.cache
def images() -> Task:
    """The last 1,000 of the lossless training images validate: the network has seen all of them."""
    x, y, test_x, test_y = cifar.lossless()
    train = TensorBatches((x[:-1000], y[:-1000]), 64, shuffle=True, seed=0, augment=augmented)
    val = TensorBatches((x[-1000:], y[-1000:]), 250, shuffle=False, seed=0)
    test = TensorBatches((test_x, test_y), 250, shuffle=False, seed=0)
    return Task("cifar10", train, val, test, (x[:2],))


SMALL = FitConfig(8, lr=0.1)
SUBJECTS = {
    "lenet-300-100": Subject(
        learnt(lenet_300_100, lambda: mnist(None, 256), SMALL), lambda: mnist(None, 256), SMALL
    ),
    "lenet5": Subject(
        learnt(lenet5, lambda: mnist(10_000, 128), replace(SMALL, lr=0.05)), lambda: mnist(10_000, 128),
        replace(SMALL, lr=0.05),
    ),
    "resnet20": Subject(lambda seed: (cifar.resnet(20), None), images, FitConfig(2, lr=0.02), blurred=True),
}  # fmt: skip


def thinned(method: str, setting: Setting) -> Thinned:
    """``dense``: trained on. ``scratch``: the shape that ``structured`` leaves, from random weights."""
    if method == "dense":
        model = copy.deepcopy(setting.model)
        fit(model, setting.task, replace(setting.fit, seed=setting.seed))
        return Thinned(model.eval())
    if method == "scratch":
        untrained = replace(setting, fit=replace(setting.fit, epochs=0))
        model = run_technique("structured", untrained).model
        torch.manual_seed(setting.seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        fit(model, setting.task, replace(setting.fit, seed=setting.seed))
        return Thinned(model.eval())
    technique, options = METHODS[method]
    return run_technique(technique, setting, **options)


def figures(subject: Subject, dense: nn.Module, thin: Thinned, *, timing: bool) -> dict[str, Any]:
    task, model = subject.task(), thin.model
    counted = cost(model, task.example_inputs)
    found = {
        "accuracy": task.evaluate(model, task.test), "val": task.evaluate(model, task.val),
        "dense_before": task.evaluate(dense, task.test), "parameters": thin.parameters_left(),
        "dense_parameters": sum(p.numel() for p in dense.parameters()), "macs": counted.macs,
        "dense_macs": cost(dense, task.example_inputs).macs, "notes": list(thin.notes),
        "sparsity": 0.0 if thin.masks is None else thin.masks.sparsity(),
        "cut": thin.plan is not None,
    }  # fmt: skip
    if subject.blurred:
        given, labels = cifar.predictions(model, cifar.jpeg_test()[::5]), torch.from_numpy(cifar.jpeg("test")[1])
        found["jpeg_accuracy"] = 100 * float((given == labels[::5]).float().mean())
    return found | (files(dense, model, task) if timing else {})


def files(dense: nn.Module, model: nn.Module, task: Task) -> dict[str, Any]:
    """Bytes and measured latency of the ONNX files; ``deflated_bytes``: what a general coder makes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("dense", "thin")}
        for name, network in (("dense", dense), ("thin", model)):
            EXPORTS.get("onnx").write(network, task.example_inputs, paths[name])
        inputs = [task.example_inputs[0][:1].numpy()]
        times = DEVICES.get("local").measure(paths, inputs, threads=1, seconds=1.0)
        found = {f"{name}_ms": times[name].cpu_p50_ms for name in paths}
        found |= {f"{name}_bytes": path.stat().st_size for name, path in paths.items()}
        deflated = {f"{name}_deflated_bytes": len(zlib.compress(p.read_bytes(), 9)) for name, p in paths.items()}
    return found | deflated


def record_of(subject: Subject, dense: nn.Module, run: Callable[[], Thinned], *, timing: bool) -> Record:
    began = time.process_time()
    try:
        thin = run()
    except UserError as error:  # this network has nothing of that kind, or not so much of it
        return {"status": "impossible", "problem": str(error).split("\n")[0]}
    seconds = time.process_time() - began
    return {"status": "done", "cpu_s": seconds, **figures(subject, dense, thin, timing=timing)}


def s1(network: str, seeds: list[int], records: Records) -> None:
    subject = SUBJECTS[network]
    for seed in seeds:
        known = set(records.by_key())
        keys = [(network, f"s1 {criterion} {rounds}", 2.0, seed)
                for criterion in S1_CRITERIA for rounds in S1_ROUNDS]  # fmt: skip
        left = [key for key in keys if key not in known]
        if not left:
            continue
        dense, initial = subject.dense(seed)
        for key in left:
            _, criterion, rounds = key[1].split()
            setting = Setting(dense, subject.task(), 0.5, subject.again, seed=seed, initial=initial)
            run = functools.partial(run_technique, "neuroprune", setting, criterion=criterion, rounds=int(rounds))
            put(records, key, record_of(subject, dense, run, timing=False))


def put(records: Records, key: tuple[Any, ...], record: Record) -> None:
    records.put(record | dict(zip(technique_tables.KEY, key, strict=True)) | {"versions": versions()})
    shown = f"{record['accuracy']:.2f} {record['cpu_s']:.1f} s" if "accuracy" in record else record["problem"]
    print(*key, shown, flush=True)


def to_do(options: argparse.Namespace, records: Records) -> Iterator[tuple[str, str, float, int]]:
    done = records.by_key()
    for seed in options.seeds:
        for ratio in options.ratios:
            for method in options.methods:
                if method == "dense" and ratio != RATIOS[0]:
                    continue  # it is the same at every ratio
                for network in options.networks:
                    if (network, method, ratio, seed) not in done:
                        yield network, method, ratio, seed


def sweep(options: argparse.Namespace, records: Records) -> None:
    known: dict[tuple[str, int], Any] = {}
    for network, method, ratio, seed in to_do(options, records):
        subject = SUBJECTS[network]
        if (network, seed) not in known:
            known = {(network, seed): subject.dense(seed)} | known
        dense, initial = known[network, seed]
        setting = Setting(dense, subject.task(), 1 / ratio, subject.again, seed=seed, initial=initial)
        timing = seed == 0 and method != "dense"
        run = functools.partial(thinned, method, setting)
        put(records, (network, method, ratio, seed), record_of(subject, dense, run, timing=timing))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--methods", nargs="+", default=["dense", *METHODS, "scratch"])
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument(
        "--s1", action="store_true", help="S1's rounds with rival criteria, at half of the weights"
    )
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    records = Records(technique_tables.FILE, technique_tables.KEY)
    if options.s1:
        for network in options.networks:
            s1(network, options.seeds, records)
        return
    sweep(options, records)


if __name__ == "__main__":
    main()
