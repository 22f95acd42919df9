"""The benchmark of transfer: what counts as a winner, and which images a network gets."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import transfer
from measuring import transferred

from neuroprune.tasks.load import load_task


def test_the_rate_is_chosen_on_validation_and_a_winner_needs_every_seed() -> None:
    rows = [
        (transferred.PRUNED, 0.1, 0, 90, 99), (transferred.PRUNED, 0.3, 0, 95, 80),
        (transferred.PRUNED, 0.1, 1, 90, 99), (transferred.PRUNED, 0.3, 1, 95, 82),
        (transferred.DENSE, 0.1, 0, 90, 85), (transferred.DENSE, 0.1, 1, 90, 81),
        (transferred.SCRATCH, 0.1, 0, 90, 70), (transferred.SCRATCH, 0.1, 1, 90, 71),
    ]  # fmt: skip
    rates, found = transferred.chosen(
        [dict(zip(("method", "lr", "seed", "val", "test"), r, strict=True)) for r in rows]
    )
    assert rates[transferred.PRUNED] == 0.3
    assert found[transferred.PRUNED] == {0: 80, 1: 82}
    assert transferred.verdict(found, transferred.SCRATCH).startswith(
        "beats the same shape from scratch in every seed"
    )
    assert "10.50 points" in transferred.verdict(found, transferred.SCRATCH)
    assert "the seeds disagree" in transferred.verdict(found, transferred.DENSE)
    swapped = {
        **found,
        transferred.PRUNED: found[transferred.SCRATCH],
        transferred.SCRATCH: found[transferred.PRUNED],
    }
    assert transferred.verdict(swapped, transferred.SCRATCH).startswith("loses to")


def test_a_share_of_the_training_images_is_stratified_and_the_rest_is_whole() -> None:
    task = load_task("digits")
    quarter = transfer.some(task, 0.25, seed=0)
    counts = torch.bincount(quarter.train.tensors[1])
    assert quarter.train.samples == round(task.train.samples / 4)
    assert int(counts.max() - counts.min()) <= 2
    assert (quarter.val, quarter.test) == (task.val, task.test)
    assert task.train.samples == 1078
