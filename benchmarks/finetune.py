"""C1: short fine-tuning with a teacher, from the label-free result: ResNet-56 at 2.1x and 4x fewer MACs.

    python benchmarks/finetune.py                      # what is not yet measured
    python benchmarks/finetune.py --ratios 2.1 --recipes lossless --seeds 0
    python benchmarks/tables.py                        # docs/s4.md from the records

The cut and its label-free recovery are those of `training_free.py` (calibration subset = seed), made once per
machine. Then at most 15 epochs with labels and the dense network as teacher, the last epoch counts, nothing is
chosen on test images: accuracy on the 1,017 lossless ones, agreement on those and on the 10,000 JPEG copies. The
control is the dense network, trained on with the same recipe. One line of JSON per (network, ratio, recipe, seed)
in benchmarks/results/finetune.jsonl; ratio 1 is the control.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cifar
from measuring.children import Report, add_sweep_options, run_child, sweep_or_one
from measuring.records import RESULTS, Records, commit, to_do, versions
from torch import nn
from training_free import CHOICE, DISTILL, MODELS, RECONSTRUCT, Judge

from neuroprune.base.files import load_tensors, read_json, save_tensors, write_json
from neuroprune.base.nouns import Budget
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.devices.facts import machine_facts
from neuroprune.pruning import Plan, apply
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.recover.reconstruct import ReconstructConfig
from neuroprune.recover.statistics import reestimate_batch_norm
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.datasets._images import Normalise, Shift
from neuroprune.tasks.task import Task

FILE = RESULTS / "finetune.jsonl"
KEY = ("network", "ratio", "recipe", "seed")
RATIOS, SEEDS, BATCH = (2.1, 4.0), (0, 1, 2), 64


@dataclass(frozen=True)
class Recipe:
    """``copies``: the JPEG copies of all training images too; batch norm is then estimated on lossless ones."""

    config: FitConfig
    copies: bool = False


_SGD = FitConfig(
    15, lr=0.02, weight_decay=1e-4, schedule="cosine", warmup_epochs=1, distill=Distill(4.0, 0.9),
    channels_last=True, precision="bf16",
)  # fmt: skip
RECIPES = {
    "lossless": Recipe(_SGD),
    "gentle": Recipe(replace(_SGD, lr=1e-3, warmup_epochs=0.5)),
    "copies": Recipe(_SGD, copies=True),
}


#: as the pretrained networks were trained; images stay uint8 in memory
SCALED = Normalise(1 / 255, cifar.MEAN, cifar.STD)


def label_free(network: str, ratio: float, seed: int) -> tuple[nn.Module, Plan]:
    """The pruned network after distillation without labels; from the machine's temporary folder where it is."""
    subject = MODELS[network]
    dense = subject.load()
    if ratio == 1:
        return dense, Plan.identity(dense)
    folder = Path(tempfile.gettempdir()) / f"neuroprune-label-free-{network}-{ratio}-{seed}-{os.getuid()}"
    if not (folder / "plan.json").exists():
        result = prune_to_budget(
            dense, subject.calibration(seed), Budget(macs=1 / ratio), recover="distill", seed=seed,
            reconstruction=ReconstructConfig(seed=seed, **RECONSTRUCT[network]),
            distillation=DistillConfig(seed=seed, **DISTILL[network]), more=subject.more(seed), **CHOICE[network],
        )  # fmt: skip
        save_tensors(folder / "weights.safetensors", result.model.state_dict())
        result.plan.save(folder / "plan.json")
    plan = Plan.load(folder / "plan.json")
    model = apply(plan, copy.deepcopy(dense))
    model.load_state_dict(load_tensors(folder / "weights.safetensors"))
    return model.eval(), plan


def training(copies: bool, seed: int) -> TensorBatches:
    held = np.load(cifar.DATA / "cifar10" / "cifar10_lossless.npz")
    images, labels = (
        cifar.every_training_image() if copies else (held["train_x"], held["train_y"].astype(np.int64))
    )
    stored = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return TensorBatches(
        (stored, torch.from_numpy(labels)),
        BATCH,
        shuffle=True,
        seed=seed,
        transform=SCALED,
        augment=Shift(4, flip=True),
    )


def task_of(train: TensorBatches) -> Task:
    """The last epoch counts, so what `fit` validates on (256 training images) decides nothing."""
    held = tuple(tensor[:256] for tensor in train.tensors)
    few = TensorBatches(held, 256, shuffle=False, seed=0, transform=SCALED)
    return Task("images", train, few, few, (SCALED(held[0][:2]),))


def tuned(network: str, ratio: float, name: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The fine-tuned network and how it was made; from the machine's temporary folder where it is."""
    recipe = RECIPES[name]
    folder = Path(tempfile.gettempdir()) / f"neuroprune-tuned-{network}-{ratio}-{name}-{seed}-{os.getuid()}"
    model, plan = label_free(network, ratio, seed)
    if not (folder / "facts.json").exists():
        began, train, teacher = time.process_time(), training(recipe.copies, seed), MODELS[network].load()
        config = replace(recipe.config, seed=seed)
        records = fit(model, task_of(train), config, teacher=teacher, plan=plan, checkpoint=folder / "checkpoint")
        if recipe.copies:
            reestimate_batch_norm(model, cifar.lossless()[0].split(256))
        save_tensors(folder / "weights.safetensors", model.state_dict())
        write_json(folder / "facts.json", {
            "epochs": len(records), "examples": train.samples, "cpu_s": time.process_time() - began,
            "train_metric": records[-1].train_metric, "config": config.to_json(),
        })  # fmt: skip
    model.load_state_dict(load_tensors(folder / "weights.safetensors"))
    return model.eval(), read_json(folder / "facts.json")


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    network, ratio, seed = options.networks[0], options.ratios[0], options.seeds[0]
    subject = MODELS[network]
    judge = Judge(subject, subject.load(), blurred=True)
    before = judge.of(label_free(network, ratio, seed)[0])
    report.tell(stage="fine-tuning", before=before)
    model, facts = tuned(network, ratio, options.recipes[0], seed)
    report.tell(status="done", before=before, after=judge.of(model), **facts)


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    keys = [
        (network, ratio, recipe, seed)
        for seed in options.seeds for network in options.networks for recipe in options.recipes
        for ratio in options.ratios
    ]  # fmt: skip
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = ["--networks", key[0], "--ratios", str(key[1]), "--recipes", key[2], "--seeds", str(key[3])]
        record: dict[str, Any] = run_child([__file__, "--one", *words], options.limit_s)
        record |= dict(zip(KEY, key, strict=True)) | {"versions": versions(), "cpu": machine_facts()["cpu"]}
        record.pop("stage", None)
        records.put(record)
        after = record.get("after", {})
        print(*key, record["status"], after.get("accuracy"), after.get("agreement"), after.get("jpeg_agreement"),
              record.get("problem", ""), flush=True)  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=MODELS, default=["resnet56"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[*RATIOS, 1.0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["lossless"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    add_sweep_options(parser, limit_s=10800)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, cifar.DATA)


if __name__ == "__main__":
    main()
