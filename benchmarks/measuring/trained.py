"""The dense networks of S4, trained once per machine as the first step of their recipes would: weights and curve.

PYTHONPATH=benchmarks python -m measuring.trained vgg16 0 [fast|paper]   # goes on, or says what is there
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

from measuring.cifar import DATA
from measuring.records import versions
from neuroprune.base.files import read_json, save_tensors, write_json
from neuroprune.devices.facts import machine_facts
from neuroprune.pipeline.recipe import Recipe, load_recipe, shipped_recipes
from neuroprune.pipeline.training import FitOptions
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.models import load_model
from neuroprune.tasks.task import Task

JPEG = DATA / "cifar10" / "cifar10_jpeg_q75.zip"


def recipe_of(network: str, profile: str, *changes: str) -> Recipe:
    return load_recipe(
        shipped_recipes()[f"s4-{network}-cifar10"], [f"data.spec=cifar10:{JPEG}", *changes], profile
    )


def training_of(network: str, profile: str, seed: int) -> FitConfig:
    """What the recipe's step ``train`` would do."""
    options = recipe_of(network, profile).steps[0].config
    assert isinstance(options, FitOptions)
    return options.fit_config(seed, options.epochs, None)


def jpeg_task(seed: int = 0) -> Task:
    """CIFAR-10 (JPEG q75): 45,000 training, 5,000 validation and 10,000 test images."""
    return load_task(f"cifar10:{JPEG}", seed=seed, batch_size=128)


def folder_of(network: str, profile: str, seed: int) -> Path:
    root = Path(os.environ.get("NEUROPRUNE_TRAINED", tempfile.gettempdir()))
    name = network if profile == "fast" else f"{network}-{profile}"
    return root / f"neuroprune-trained-{name}-{seed}-{os.getuid()}"


def untrained(network: str, seed: int) -> nn.Module:
    return load_model(f"neuroprune.tasks.cifar_nets:{network}", seed=seed)


def train(network: str, seed: int, profile: str = "fast", *, threads: int = 1) -> tuple[Path, dict[str, Any]]:
    """The weights' file and the facts; minutes to hours the first time, resumed where it was interrupted."""
    folder = folder_of(network, profile, seed)
    weights, facts = folder / "weights.safetensors", folder / "facts.json"
    if not facts.exists():
        torch.set_num_threads(threads)
        model, task, config = untrained(network, seed), jpeg_task(seed), training_of(network, profile, seed)
        began = time.process_time()
        records = fit(model, task, config, checkpoint=folder / "checkpoint", progress=Log())
        save_tensors(weights, model.state_dict())
        write_json(facts, {
            "network": network, "profile": profile, "seed": seed, "data": task.name, "threads": threads,
            "epochs": [record.to_json() for record in records], "val": records[-1].val_metric,
            "test": task.evaluate(model, task.test), "cpu_s_of_last_run": time.process_time() - began,
            "config": config.to_json(), "versions": versions(), "machine": machine_facts(),
        })  # fmt: skip
    return weights, read_json(facts)


class Log:
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
        print(summary, flush=True)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    path, found = train(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4])
    print(path, found["val"], found["test"])
