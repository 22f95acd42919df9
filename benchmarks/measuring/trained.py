"""The dense networks of S4, trained here once per machine: weights and curve lie beside the decoded images.

python benchmarks/measuring/trained.py vgg16 0      # trains, or goes on, or says what is there
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.cifar import DATA
from measuring.records import versions
from neuroprune.base.files import read_json, save_tensors, write_json
from neuroprune.devices.facts import machine_facts
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.models import load_model
from neuroprune.tasks.task import Task

#: the `fast` profile of the recipes; see `recipes/s4-*.yaml`
EPOCHS = {"resnet34": 15, "vgg16": 8}
BATCH = 128


def fast(network: str, seed: int) -> FitConfig:
    return FitConfig(
        EPOCHS[network], lr=0.1, schedule="onecycle", precision="bf16", channels_last=True, seed=seed,
        label_smoothing=0.1,
    )  # fmt: skip


def jpeg_task(seed: int = 0) -> Task:
    """CIFAR-10 (JPEG q75): 45,000 training, 5,000 validation and 10,000 test images."""
    return load_task(f"cifar10:{DATA / 'cifar10' / 'cifar10_jpeg_q75.zip'}", seed=seed, batch_size=BATCH)


def folder_of(network: str, seed: int) -> Path:
    root = Path(os.environ.get("NEUROPRUNE_TRAINED", tempfile.gettempdir()))
    return root / f"neuroprune-trained-{network}-{seed}-{os.getuid()}"


def untrained(network: str, seed: int) -> nn.Module:
    return load_model(f"neuroprune.tasks.cifar_nets:{network}", seed=seed)


def train(network: str, seed: int, *, threads: int = 1) -> tuple[Path, dict[str, Any]]:
    """The weights' file and the facts; minutes to an hour the first time, resumed where it was interrupted."""
    folder = folder_of(network, seed)
    weights, facts = folder / "weights.safetensors", folder / "facts.json"
    if not facts.exists():
        torch.set_num_threads(threads)
        model, task = untrained(network, seed), jpeg_task(seed)
        began = time.process_time()
        records = fit(model, task, fast(network, seed), checkpoint=folder / "checkpoint", progress=_Log())
        save_tensors(weights, model.state_dict())
        write_json(facts, {
            "network": network, "seed": seed, "data": task.name, "threads": threads,
            "epochs": [record.to_json() for record in records], "val": records[-1].val_metric,
            "test": task.evaluate(model, task.test), "cpu_s_of_last_run": time.process_time() - began,
            "config": fast(network, seed).to_json(), "versions": versions(), "machine": machine_facts(),
        })  # fmt: skip
    return weights, read_json(facts)


class _Log:
    """One line per fifty batches: these runs are watched through a file."""

    def __init__(self) -> None:
        self.batches = 0

    def start(self, title: str, total: int) -> None:
        print(title, total, "batches", flush=True)

    def advance(self, note: str = "") -> None:
        self.batches += 1
        if self.batches % 50 == 0:
            print(self.batches, f"{time.process_time():.0f} s of CPU", note, flush=True)

    def finish(self, summary: str) -> None:
        pass

    def close(self) -> None:
        pass


if __name__ == "__main__":
    path, found = train(sys.argv[1], int(sys.argv[2]))
    print(path, found["val"], found["test"])
