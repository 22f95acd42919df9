"""Random networks out of supported operators: every cut is exact, and nothing of ours ever raises."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pruning.fuzzing import examine_shard

from neuroprune.pruning import prune
from neuroprune.testing.blocks import IMAGE, SEQUENCE
from neuroprune.testing.fuzz import examine, zeroed_error
from neuroprune.testing.networks import BLOCKS, GENES, RandomNetwork

#: an image, and a sequence: what the block under test is put behind
STARTS = {"image": (0, IMAGE), "sequence": (2 * len(SEQUENCE), SEQUENCE)}


@pytest.mark.parametrize("kind", range(BLOCKS))
@pytest.mark.parametrize("start", STARTS)
def test_every_block_by_itself_is_cut_without_the_safety_net(start: str, kind: int) -> None:
    """420 networks of two blocks, with every choice that the second one has."""
    first, _ = STARTS[start]
    for gene in range(kind, GENES, BLOCKS):
        model = RandomNetwork([first, gene], seed=gene)
        finding = examine(model, torch.randn(2, 3, 5, 5), 0.5, seed=gene)
        assert finding.rescued == 0, f"genes {[first, gene]}"


@pytest.mark.parametrize("start", STARTS)
def test_the_starts_are_what_they_are_called(start: str) -> None:
    first, menu = STARTS[start]
    model = RandomNetwork([first])
    assert model.tokens == (menu is SEQUENCE)
    assert first % len(menu) == 0  # the first of the menu: a plain layer


def test_the_yardstick_notices_a_wrong_index_and_a_wrong_value() -> None:
    model, inputs = RandomNetwork([0, 1, 15]), torch.randn(2, 3, 5, 5)
    result = prune(model, inputs, criterion="random")
    assert zeroed_error(model, result.model, result.plan, inputs) <= 1e-12
    gone = result.plan.removed["stem.weight"][0]
    kept = [i for i in range(model.stem.out_channels) if i not in gone]
    wrong = {**result.plan.removed, "stem.weight": {0: tuple(sorted({*gone[1:], kept[0]}))}}
    assert zeroed_error(model, result.model, dataclasses.replace(result.plan, removed=wrong), inputs) > 1e-6
    with torch.no_grad():
        result.model.head.weight[0, 0] += 1e-3
    assert zeroed_error(model, result.model, result.plan, inputs) > 1e-6


@pytest.mark.parametrize("shard", range(4))
def test_random_networks_are_cut_exactly(shard: int) -> None:
    outcomes = examine_shard(RandomNetwork, shard, 150)
    assert outcomes["networks"] >= 150
    # Groups that only the oracle stopped are compression lost: the rules should have known better. Target: 0.
    assert outcomes["rescued"] <= 0.05 * outcomes["networks"]
    assert outcomes["cut"] >= 0.9 * outcomes["networks"]
