"""Transfer learning from a pruned network: MNIST, then scikit-learn's digits, both at 16x16.

    python benchmarks/transfer.py [--seeds 0 1 2] [--data ../shared/data/mnist.npz]

For each seed a residual network learns 6,000 images of MNIST; half of the channels of every group are cut away,
and what is left is fine-tuned on MNIST with the dense network as its teacher. Then three networks learn 25, 50
and 100 % of the digits' training images for the same number of epochs: the pruned network with a new head, the
dense one with a new head, and the pruned shape with random weights. Each is trained at every rate of `RATES`;
which rate counts is chosen on the validation images (by the mean over the seeds), the test images are only
reported. The last epoch counts. Results go to benchmarks/results/transfer.jsonl after each training, and what
is there is not done again.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring.cifar import DATA
from measuring.records import RESULTS, Records, versions
from torch import nn

from neuroprune import cost, prune, transfer
from neuroprune.devices.facts import machine_facts
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.datasets._images import stratified_limit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.models import load_model
from neuroprune.tasks.task import Task

OUT = RESULTS / "transfer.jsonl"
NET, WIDTH = "neuroprune.tasks.nets:digits_resnet", {"width": 16, "blocks": 1}
SIDE, SOURCE_IMAGES, RATIO = 16, 6000, 0.5
SHARES, RATES, EPOCHS = (0.25, 0.5, 1.0), (0.1, 0.03), 20
SOURCE = FitConfig(epochs=4, lr=0.1)
FINETUNE = FitConfig(epochs=3, lr=0.03, distill=Distill())
METHODS = ("pruned, transferred", "dense, transferred", "pruned shape, from scratch")


def some(task: Task, share: float, seed: int) -> Task:
    """``share`` of the training images, stratified; validation and test stay whole."""
    assert isinstance(task.train, TensorBatches)
    x, y = task.train.tensors
    rows = torch.from_numpy(stratified_limit(y.numpy(), round(share * len(y)), seed))
    fewer = copy.copy(task.train)
    fewer.tensors = (x[rows], y[rows])
    return replace(task, train=fewer)


def sources(seed: int, mnist: Path) -> dict[str, Any]:
    """The networks as they come from MNIST, and what they reach there."""
    task = load_task(f"mnist:{mnist}", seed=seed, resize=SIDE, limit=SOURCE_IMAGES)
    dense = load_model(NET, kwargs=WIDTH, seed=seed)
    fit(dense, task, replace(SOURCE, seed=seed))
    result = prune(dense, task.example_inputs, RATIO)
    fit(result.model, task, replace(FINETUNE, seed=seed), teacher=dense, plan=result.plan)
    before, after = (cost(net, task.example_inputs) for net in (dense, result.model))
    accuracies = {
        name: task.evaluate(net, task.test) for name, net in (("dense", dense), ("pruned", result.model))
    }
    return {"dense": dense, "result": result, "mnist": accuracies,
            "macs": [before.macs, after.macs], "params": [before.params, after.params]}  # fmt: skip


def begun(method: str, source: dict[str, Any], task: Task, seed: int) -> nn.Module:
    """The network of ``method`` before it has seen the digits."""
    dense, result = source["dense"], source["result"]
    moved = transfer(result.model, task.example_inputs, 10, dense=dense, plan=result.plan, seed=seed)
    assert moved.dense is not None
    if method == METHODS[0]:
        return moved.model
    if method == METHODS[1]:
        return moved.dense
    torch.manual_seed(seed)
    for module in moved.model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return moved.model


def trained(method: str, source: dict[str, Any], task: Task, rate: float, seed: int) -> dict[str, Any]:
    network = begun(method, source, task, seed)
    began = time.process_time()
    fit(network, task, FitConfig(epochs=EPOCHS, lr=rate, seed=seed))
    return {"val": task.evaluate(network, task.val), "test": task.evaluate(network, task.test),
            "images": task.train.samples, "cpu_s": time.process_time() - began}  # fmt: skip


def measure(seed: int, mnist: Path, records: Records) -> None:
    keys = [(seed, share, method, rate) for share in SHARES for method in METHODS for rate in RATES]
    left = [key for key in keys if key not in records.by_key()]
    if not left:
        return
    source = sources(seed, mnist)
    told = {key: source[key] for key in ("mnist", "macs", "params")}
    for _, share, method, rate in left:
        task = some(load_task("digits", seed=seed, resize=SIDE), share, seed)
        found = trained(method, source, task, rate, seed)
        record = {"seed": seed, "share": share, "method": method, "lr": rate, "epochs": EPOCHS, **found, **told,
                  "cpu": machine_facts()["cpu"], "versions": versions()}  # fmt: skip
        records.put(record)
        print(seed, share, method, rate, f"val {found['val']:.2f} test {found['test']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=DATA / "mnist.npz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        measure(seed, options.data, Records(OUT, key=("seed", "share", "method", "lr")))


if __name__ == "__main__":
    main()
