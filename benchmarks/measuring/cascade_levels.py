"""Nested networks for `benchmarks/cascade.py`: made once per machine, kept beside the decoded images."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training_free import calibration, every_training_image

from measuring import cifar, mlperf
from measuring.records import commit
from neuroprune.base.files import load_tensors, read_json, save_tensors, write_json
from neuroprune.cascade.levels import Level, LevelOptions, nested_levels
from neuroprune.cascade.nested import check_nested
from neuroprune.graph import cost
from neuroprune.pruning import Plan, apply, verify
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.reconstruct import ReconstructConfig

BATCH = 64


@dataclass(frozen=True)
class Subject:
    """A trained network; unlabelled ``calibration`` batches, and ``more`` for distillation; ``held``: inputs and
    labels of which one half chooses thresholds and the other is reported on."""

    load: Callable[[], nn.Module]
    shares: tuple[float, ...]
    options: LevelOptions
    calibration: Callable[[], list[Tensor]]
    held: Callable[[], tuple[Tensor, Tensor]]
    more: Callable[[], Sequence[Tensor] | None] = lambda: None


def _resnet(depth: int, shares: tuple[float, ...]) -> Subject:
    options = LevelOptions(
        kind="latency",
        recover="distill",
        reconstruction=ReconstructConfig(steps=375, lr=3e-3, batch=BATCH),
        distillation=DistillConfig(epochs=4, lr=5e-4, features=1.0),
    )
    return Subject(
        lambda: cifar.resnet(depth), shares, options, lambda: calibration(0), lambda: cifar.lossless()[2:],
        lambda: every_training_image(0),
    )  # fmt: skip


def _keywords() -> Subject:
    data = mlperf.keyword_data(0)
    options = LevelOptions(kind="latency", recover="closed-form", allocation=("stream", "sensitivity"))
    return Subject(
        mlperf.keyword_net, (0.5, 0.7, 1.0), options, lambda: list(data.calibration.split(50)),
        lambda: (data.test, data.labels),
    )  # fmt: skip


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet56": lambda: _resnet(56, (0.2, 0.4, 1.0)), "resnet20": lambda: _resnet(20, (0.25, 0.5, 1.0)),
    "ds-cnn": _keywords,
}  # fmt: skip


def made(name: str, *, again: bool = False) -> tuple[list[Level], dict[str, Any]]:
    """The nested networks of a subject, from the machine's temporary folder or made now (minutes); how they were
    made. Their plans are proven anew."""
    subject = SUBJECTS[name]()
    folder = Path(tempfile.gettempdir()) / f"neuroprune-cascade-{name}-{subject.options.recover}-{os.getuid()}"
    if again or not (folder / "facts.json").exists():
        _make(subject, folder)
    dense, facts = subject.load(), read_json(folder / "facts.json")
    example, levels = subject.calibration()[0][:2], []
    for number, share in enumerate(facts["shares"]):
        plan = Plan.load(folder / f"{number}.json")
        model = apply(plan, copy.deepcopy(dense))
        model.load_state_dict(load_tensors(folder / f"{number}.safetensors"))
        proof = verify(dense, plan, example)
        levels.append(Level(share, model.eval(), plan, proof, cost(model, example)))
    check_nested([level.plan for level in levels])
    return levels, facts


def _make(subject: Subject, folder: Path) -> None:
    torch.set_num_threads(1)
    began = time.process_time()
    levels = nested_levels(
        subject.load(), subject.calibration(), subject.shares, subject.options, more=subject.more()
    )
    for number, level in enumerate(levels):
        save_tensors(folder / f"{number}.safetensors", level.model.state_dict())
        level.plan.save(folder / f"{number}.json")
    facts = {
        "shares": list(subject.shares), "kind": subject.options.kind, "recover": subject.options.recover,
        "examples": sum(map(len, subject.calibration())),
        "macs": [level.cost.macs for level in levels], "params": [level.cost.params for level in levels],
        "exact": all(level.verification.exact for level in levels), "cpu_s": time.process_time() - began,
        "commit": commit(),
    }  # fmt: skip
    write_json(folder / "facts.json", facts)


if __name__ == "__main__":
    import sys

    for word in sys.argv[1:]:  # makes them without measuring anything
        print(word, made(word)[1], flush=True)
