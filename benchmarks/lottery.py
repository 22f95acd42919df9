"""Lottery tickets on MNIST and digits: dense, tickets by three kinds of rewinding, and their controls.

    python benchmarks/lottery.py [--data digits mnist] [--rewind init epoch lr] [--seeds 0 1 2]
    python benchmarks/tables.py                            # docs/lottery.md from the records

LeNet-300-100 (64 inputs for digits), magnitude, each layer by itself and the output layer at half the rate;
``digits-slow`` has smaller rounds and twice the training. AdamW without weight decay, cosine schedule, no
augmentation. A seed sets the initial weights, the order of the batches, and the split. The ticket is chosen on
validation; every network is tested once, and nothing follows from it. One process, one thread; one
line of JSON for each training in benchmarks/results/lottery.jsonl; searches that are there already are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring.lottery_tables import DATA, FILE, KEY, ROUNDS, SEEDS
from measuring.records import ROOT, Record, Records, versions
from torch import nn

from neuroprune.recover.fit import FitConfig
from neuroprune.recover.lottery import LotteryConfig, Ticket, TicketRecord, find_ticket
from neuroprune.recover.ticket import Control, Rewind
from neuroprune.tasks.batches import TensorBatches, seeded
from neuroprune.tasks.load import load_task
from neuroprune.tasks.nets import lenet_300_100
from neuroprune.tasks.task import Task

MNIST = ROOT.parent / "shared" / "data" / "mnist.npz"
INPUTS = {"mnist": 784, "digits": 64, "digits-slow": 64}
TRAINING = {
    "mnist": FitConfig(epochs=4, lr=3e-3, optimizer="adamw", weight_decay=0.0, clip_norm=None),
    "digits": FitConfig(epochs=20, lr=2e-3, optimizer="adamw", weight_decay=0.0, clip_norm=None),
}
TRAINING["digits-slow"] = replace(TRAINING["digits"], epochs=40)
#: share of what is on that goes in each round: ten rounds for digits, five for MNIST, to much the same sparsities;
#: a fifth in eleven rounds for digits-slow
FRACTION = {"digits": 0.33, "digits-slow": 0.2, "mnist": 0.54}
REWINDS: dict[Rewind, int] = {"init": 0, "epoch": 1, "lr": 0}
#: fewer where time is short; lr has none that start anew, because they would be those of init
CONTROLS: dict[tuple[str, str], tuple[Control, ...]] = {
    ("digits", "init"): ("reinit", "random_mask"),
    ("digits", "epoch"): ("reinit", "random_mask"),
    ("digits", "lr"): ("dense",),
    ("digits-slow", "init"): (),
    ("digits-slow", "epoch"): (),
    ("digits-slow", "lr"): (),
    ("mnist", "init"): ("reinit", "random_mask"),
    ("mnist", "epoch"): (),
    ("mnist", "lr"): ("dense",),
}


def data(name: str, seed: int, mnist: Path) -> Task:
    """Without augmentation, which would make the two data sets differ in more than their size."""
    spec, size = (f"mnist:{mnist}", 256) if name == "mnist" else ("digits", 32)
    task = load_task(spec, seed=seed, batch_size=size)
    train: Any = task.train
    plain = TensorBatches(train.tensors, train.batch_size, shuffle=True, seed=seed, transform=train.transform)
    return replace(task, train=plain)


def network(name: str, seed: int) -> nn.Module:
    with seeded(seed):
        return lenet_300_100(INPUTS[name])


def config(name: str, rewind: Rewind, seed: int) -> LotteryConfig:
    return LotteryConfig(
        replace(TRAINING[name], seed=seed), rounds=max(ROUNDS[name]), fraction=FRACTION[name], rewind=rewind,
        rewind_epoch=REWINDS[rewind], rates={"5.weight": 0.5}, controls=CONTROLS[name, rewind],
        control_rounds=ROUNDS[name],
    )  # fmt: skip


def search(name: str, rewind: Rewind, seed: int, mnist: Path) -> Iterator[Record]:
    """One record per training."""
    task = data(name, seed, mnist)
    rows: list[Record] = []
    began = time.process_time()

    def after(record: TicketRecord, model: nn.Module) -> None:
        nonlocal began
        spent = time.process_time() - began
        rows.append({
            "data": name, "rewind": rewind, "seed": seed, "kind": record.kind, "round": record.round,
            "sparsity": record.sparsity, "val": record.metric, "test": task.evaluate(model, task.test),
            "epochs": len(record.epochs), "cpu_s": spent, "versions": versions(), "chosen": False,
        })  # fmt: skip
        print(
            name, rewind, seed, record.kind, record.round, f"val {record.metric:.2f}", f"{spent:.1f} s", flush=True
        )
        began = time.process_time()

    ticket: Ticket = find_ticket(network(name, seed), task, config(name, rewind, seed), after=after)
    for row in rows:
        chosen = row["kind"] == "ticket" and row["round"] == ticket.round
        yield row | {"chosen": chosen, "reached": ticket.reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--rewind", nargs="+", default=list(REWINDS), choices=list(REWINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--mnist", type=Path, default=MNIST)
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(FILE, KEY)
    for name in options.data:
        for rewind in options.rewind:
            for seed in options.seeds:
                if (name, rewind, seed, "dense", 0) in records.by_key():
                    continue
                for record in reversed(list(search(name, rewind, seed, options.mnist))):
                    records.put(record)  # the dense one last: with it the search is done


if __name__ == "__main__":
    main()
