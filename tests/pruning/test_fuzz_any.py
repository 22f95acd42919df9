"""Random networks with hostile blocks: exact or refused with a reason, never wrong, never an exception of ours."""

from __future__ import annotations

import pytest
import torch
from pruning.fuzzing import examine_shard

from neuroprune.testing.blocks import HOSTILE, Maker, Site
from neuroprune.testing.fuzz import examine
from neuroprune.testing.networks import AnyNetwork, RandomNetwork


class OneHostile(RandomNetwork):
    """A plain layer, the hostile block number ``genes[1]``, another plain layer."""

    def maker(self, site: Site, gene: int) -> Maker:
        return HOSTILE[gene] if len(site.shapes) == 2 else super().maker(site, gene)


@pytest.mark.parametrize("kind", range(len(HOSTILE)))
@pytest.mark.parametrize("start", [0, 48])
def test_every_hostile_block_by_itself_is_never_wrong(start: int, kind: int) -> None:
    for ratio in (0.3, 0.5, 0.75):
        examine(OneHostile([start, kind, start]), torch.randn(2, 3, 5, 5), ratio)


@pytest.mark.parametrize("shard", range(4))
def test_any_networks_are_cut_exactly_or_refused(shard: int) -> None:
    outcomes = examine_shard(AnyNetwork, 100 + shard, 250)
    assert outcomes["networks"] >= 250
    assert outcomes["rescued"] <= 0.05 * outcomes["networks"]
    assert outcomes["cut"] >= 0.8 * outcomes["networks"]
