"""Blocks learn the dense network's blocks: never worse, in place, on what they really get."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.modes import evaluation
from neuroprune.graph.trace import trace
from neuroprune.pruning.allocate import build_plan
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.recover import blocks
from neuroprune.recover.blocks import blocks_of, windows_of
from neuroprune.recover.reconstruct import ReconstructConfig, reconstruct
from neuroprune.recover.replay import Replay
from neuroprune.recover.sites import find_sites

FEW = ReconstructConfig(steps=40, lr=3e-3, batch=16)


class Block(nn.Module):
    def __init__(self, width: int, *, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=inplace)
        self.a, self.n, self.b = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.n(self.a(self.first(x) * 0.5)).relu()) + x  # type: ignore[no-any-return]


class Adds(nn.Module):
    """Writes into what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor, *, gain: float) -> Tensor:
        return self.b(self.a(x).relu()) * gain  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, block: nn.Module, **named: Any) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 3, padding=1), block, nn.Linear(6, 4)
        self.named = named

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x), **self.named).mean((2, 3)))  # type: ignore[no-any-return]


def conv1d() -> Any:
    return nn.Sequential(
        nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(80, 3)),
    )


NETS: dict[str, Any] = {
    "blocks": lambda: Net(Block(6)), "in place": lambda: Net(Block(6, inplace=True)), "adds": lambda: Net(Adds()),
    "conv1d": conv1d, "chain": lambda: Net(nn.Sequential(*(Block(6) for _ in range(3)))),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 16), nn.GELU(), nn.Linear(16, 4)),
}  # fmt: skip


def forward(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def cut(net: nn.Module, x: Tensor, share: float = 0.4) -> tuple[Plan, nn.Module]:
    found = trace(net, x[:2])
    decisions = []
    for group in found.groups:
        gone = tuple(range(int(group.size * share)))
        kept = tuple(range(len(gone), group.size))
        decisions.append(GroupDecision(group.name, "", kept, gone, (0.0,) * group.size, 0.0, "", ""))
    plan = build_plan(net, found, decisions)
    assert plan.removed
    return plan, apply(plan, copy.deepcopy(net))


def build(name: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(2)
    net = NETS[name]()
    return net, list(torch.randn(40, *((3, 10) if name == "conv1d" else (3, 5, 5))).split(16))


def distance(net: nn.Module, other: nn.Module, batches: Sequence[Tensor]) -> float:
    with evaluation(net), evaluation(other):
        return float(sum((net(b.clone()) - other(b.clone())).square().sum() for b in batches))


@pytest.mark.parametrize("name", NETS)
def test_every_block_gets_nearer_and_so_does_the_network(name: str) -> None:
    net, batches = build(name)
    net.train()
    plan, small = cut(net, batches[0])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    kept = [b.clone() for b in batches]
    sizes = {k: v.shape for k, v in small.state_dict().items()}
    flags = [p.requires_grad for p in small.parameters()]
    far = distance(net, small, batches)
    twin = copy.deepcopy(small)
    results = reconstruct(net, small, plan, forward, batches, FEW)
    assert results
    assert sum(r.after for r in results) < sum(r.before for r in results)
    assert any(r.after < 0.9 * r.before for r in results)
    assert distance(net, small, batches) < far
    assert {k: v.shape for k, v in small.state_dict().items()} == sizes
    assert [p.requires_grad for p in small.parameters()] == flags
    assert all(p.grad is None for p in small.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(batches, kept, strict=True))
    assert all(m.training for m in net.modules())
    assert reconstruct(net, twin, plan, forward, batches, FEW) == results
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in twin.state_dict().items())


def test_the_reported_errors_are_those_of_the_blocks() -> None:
    """The first block, by hand: its inputs are the dense ones."""
    net, batches = build("conv1d")
    plan, small = cut(net, batches[0])
    start = copy.deepcopy(small)
    results = reconstruct(net, small, plan, forward, batches, FEW)
    x = torch.cat(batches)
    with evaluation(net), evaluation(small), evaluation(start):
        removed = set(plan.removed["0.0.weight"][0])
        target = net[0](x)[:, [i for i in range(8) if i not in removed]]  # type: ignore[operator]
        for given, told in ((start, results[0].before), (small, results[0].after)):
            error = (given[0](x) - target).square().mean() / target.var()  # type: ignore[operator]
            assert told == pytest.approx(float(error), rel=1e-4)
    assert [r.block for r in results] == ["0", "1", "2"]


def test_a_rate_too_high_is_undone() -> None:
    net, batches = build("blocks")
    plan, small = cut(net, batches[0])
    before = {k: v.clone() for k, v in small.state_dict().items()}
    results = reconstruct(net, small, plan, forward, batches, ReconstructConfig(steps=3, lr=1e30))
    assert all(r.before == r.after for r in results)
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())


def test_blocks_of_examples_of_several_sizes_stay_as_they_are() -> None:
    net, _ = build("blocks")
    batches = [torch.randn(4, 3, 5, 5), torch.randn(4, 3, 7, 6)]
    plan, small = cut(net, batches[0])
    before = {k: v.clone() for k, v in small.block.state_dict().items()}  # type: ignore[union-attr]
    results = reconstruct(net, small, plan, forward, batches, FEW)
    assert [r.block for r in results] == ["head"]
    assert all(torch.equal(v, before[k]) for k, v in small.block.state_dict().items())  # type: ignore[union-attr]


def test_a_block_learns_however_it_is_called() -> None:
    torch.manual_seed(0)
    net, batches = Net(Gated(), gain=2.0), [torch.randn(8, 3, 5, 5)]
    plan, small = cut(net, batches[0])
    results = {r.block: r for r in reconstruct(net, small, plan, forward, batches, FEW)}
    assert list(results) == ["stem", "block", "head"]
    assert results["block"].after < results["block"].before


def test_a_block_whose_examples_depend_on_each_other_stays_as_it_is() -> None:
    class Mixed(nn.Module):
        """Every example sees the one before it."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x + x.roll(1, 0)).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, batches = Net(Mixed()), [torch.randn(8, 3, 5, 5)]
    plan, small = cut(net, batches[0])
    assert "block" not in [r.block for r in reconstruct(net, small, plan, forward, batches, FEW)]


def test_frozen_parameters_learn_and_stay_frozen() -> None:
    net, batches = build("conv1d")
    plan, small = cut(net, batches[0])
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    results = reconstruct(net, small, plan, forward, batches, FEW)
    assert any(r.after < r.before for r in results)
    assert not any(p.requires_grad for p in small.parameters())


def test_blocks_are_the_largest_with_few_layers_in_order() -> None:
    batches = build("chain")[1]
    short = Net(nn.Sequential(*(Block(6) for _ in range(2))))
    sites = find_sites(short, lambda model: model(batches[0]))
    assert blocks_of(sites, Replay(short, forward, batches)) == ["stem", "block", "head"]
    wide = Net(nn.Sequential(*(Block(6) for _ in range(4))))
    sites = find_sites(wide, lambda model: model(batches[0]))
    names = blocks_of(sites, Replay(wide, forward, batches))
    assert names == ["stem", "block.0", "block.1", "block.2", "block.3", "head"]


def test_a_bare_layer_whose_norm_is_outside_is_no_block() -> None:
    """A refit has changed what the norm expects: to aim at the value before it would undo that."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.Conv2d(4, 2, 1),
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 5, 5)
    sites = find_sites(net, lambda model: model(x))
    assert [site.norm for site in sites] == ["1", "3.1", None]
    assert blocks_of(sites, Replay(net, forward, [x])) == ["3", "4"]


def test_windows_are_blocks_that_run_one_into_the_next() -> None:
    """Of few layers; the pooling between the last block and the head is in none."""
    batches = build("chain")[1]
    net = Net(nn.Sequential(*(Block(6) for _ in range(8))))
    sites = find_sites(net, lambda model: model(batches[0]))
    replay = Replay(net, forward, batches)
    names = blocks_of(sites, replay)
    assert windows_of(names, sites, replay) == [
        ["stem", *(f"block.{n}" for n in range(5))], [f"block.{n}" for n in (5, 6, 7)], ["head"],
    ]  # fmt: skip


def test_blocks_that_get_more_than_one_tensor_begin_a_window() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
            self.join = Join()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.join(self.c(self.b(a)), a)  # type: ignore[no-any-return]

    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.d(x) + y  # type: ignore[no-any-return]

    net, x = Twice(), torch.randn(6, 4)
    sites = find_sites(net, lambda model: model(x))
    replay = Replay(net, forward, [x])
    assert windows_of(blocks_of(sites, replay), sites, replay) == [["a", "b", "c"], ["join"]]


def test_a_window_learns_no_worse_for_the_last_block_than_its_blocks_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An earlier block of a window may make good what a later one cannot."""
    net, batches = build("chain")
    plan, small = cut(net, batches[0])
    alone = copy.deepcopy(small)
    config = ReconstructConfig(steps=200, lr=3e-3, batch=16)
    together = {r.block: r.after for r in reconstruct(net, small, plan, forward, batches, config)}
    monkeypatch.setattr(blocks, "MOST_IN_WINDOW", 1)
    single = {r.block: r.after for r in reconstruct(net, alone, plan, forward, batches, config)}
    assert set(together) == set(single)
    assert together["block.2"] < single["block.2"]
