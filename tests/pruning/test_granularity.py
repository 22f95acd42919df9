"""What each granularity cuts, on a network with channels, heads and grouped convolutions; counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph import trace
from neuroprune.pruning import prune
from neuroprune.testing.fuzz import zeroed_error


class Mixed(nn.Module):
    """Grouped convolution (4 groups of 2) on 8 channels, then attention with 4 heads of 6, then 10 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.stem, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4)
        self.qkv, self.proj = nn.Linear(8, 72), nn.Linear(24, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x).relu()).flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2)
        return self.head(self.proj(x).relu().mean(1))


#: granularity -> shapes of (stem, grouped, qkv, proj) weights after half of it went; None: as it was
HALF = {
    "head": (None, None, (36, 8), (10, 12)),
    "head_dim": (None, None, (36, 8), (10, 12)),
    "conv_group": ((4, 3, 1, 1), (4, 2, 1, 1), (72, 4), None),
}


@pytest.mark.parametrize("name", HALF)
def test_only_what_is_named_is_cut(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = Mixed(), torch.randn(2, 3, 4, 4)
    result = prune(model, inputs, ratio=0.5, granularity=name)  # type: ignore[arg-type]
    cut = result.model
    assert isinstance(cut, Mixed)
    for layer, shape in zip(("stem", "grouped", "qkv", "proj"), HALF[name], strict=True):
        expected = shape or tuple(model.get_submodule(layer).weight.shape)
        assert tuple(cut.get_submodule(layer).weight.shape) == expected, layer
    assert cut.heads == (2 if name == "head" else 4)
    assert cut.grouped.groups == (2 if name == "conv_group" else 4)
    assert zeroed_error(model, cut, result.plan, inputs) <= 1e-9


def test_heads_and_head_dimensions_are_two_groups_over_the_same_rows() -> None:
    groups = {
        g.kind: g for g in trace(Mixed(), torch.randn(2, 3, 4, 4)).groups if g.slices[0].tensor == "qkv.weight"
    }
    assert (groups["head"].size, groups["head_dim"].size) == (4, 6)
    rows = groups["head"].slices[0].indices.tolist()
    assert rows[1] == [24 * third + 6 + i for third in range(3) for i in range(6)]


@pytest.mark.parametrize(("width", "run", "gone"), [(8, 2, 4), (10, 4, 8), (8, 3, 6), (12, 4, 8)])
def test_rows_go_in_whole_runs_and_not_fewer_than_asked(width: int, run: int, gone: int) -> None:
    """Runs start at multiples of their length; half of 10 is 5, which takes two runs of 4."""
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    result = prune(model, torch.randn(4, 3), ratio=0.5, granularity="rows", round_to=run)
    removed = result.plan.removed["0.weight"][0]
    starts = removed[::run]
    assert all(start % run == 0 for start in starts)
    assert removed == tuple(i for start in starts for i in range(start, start + run))
    assert len(removed) == gone


def test_blocks_go_by_the_same_call() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    model = nn.Sequential(nn.Linear(3, 6), Block(), Block(), nn.Linear(6, 2))
    inputs = torch.randn(4, 3)
    result = prune(model, inputs, ratio=0.5, granularity="block", criterion="l1")
    (gone,) = result.plan.bypassed
    rest = [layer for name, layer in model.named_children() if name != gone]
    assert torch.allclose(result.model(inputs), nn.Sequential(*rest)(inputs))
    with pytest.raises(UserError, match="blocks are modules"):
        prune(model, inputs, granularity="block", tier="exported")


def test_a_group_that_is_not_there_is_an_error_with_a_guess() -> None:
    with pytest.raises(UserError, match="did you mean 'stem'"):
        trace(Mixed(), torch.randn(2, 3, 4, 4)).group("stemm")
