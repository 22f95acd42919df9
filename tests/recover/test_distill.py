"""Label-free distillation: nearer to the dense network, and with ``features`` its blocks nearer as well."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.modes import evaluation
from neuroprune.graph.trace import trace
from neuroprune.pruning.allocate import build_plan
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.recover.distill import DistillConfig, distill

CONFIG = DistillConfig(epochs=30, lr=3e-3)


class Block(nn.Module):
    """Writes into what it gets, as blocks do that save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.b(self.n(self.a(x)).relu_()) + x).relu_()  # type: ignore[no-any-return]


def made() -> nn.Sequential:
    torch.manual_seed(3)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Block(), Block(), Block(), head)


def forward(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def cut(net: nn.Module, x: Tensor) -> tuple[Plan, Any]:
    """A third of every group goes, of the stream's too."""
    found = trace(net, x[:2])
    decisions = [
        GroupDecision(g.name, "", tuple(range(2, g.size)), (0, 1), (0.0,) * g.size, 0.0, "", "")
        for g in found.groups
    ]
    plan = build_plan(net, found, decisions)
    return plan, apply(plan, copy.deepcopy(net))


def blocks(net: Any, x: Tensor) -> list[Tensor]:
    """Outputs of the blocks, and of the network last."""
    found = []
    with evaluation(net):
        for module in net:
            x = module(x)
            found.append(x.clone())
    return found[1:]


def missed(net: nn.Sequential, small: Any, plan: Plan, batches: Sequence[Tensor]) -> list[float]:
    """Of each block and of the outputs: squared error over the variance."""
    kept = [i for i in range(6) if i not in plan.removed["0.weight"][0]]
    wanted, given = blocks(net, torch.cat(list(batches))), blocks(small, torch.cat(list(batches)))
    wanted = [*(w[:, kept] for w in wanted[:-1]), wanted[-1]]
    return [float((w - g).square().mean() / w.var()) for w, g in zip(wanted, given, strict=True)]


def test_outputs_come_nearer_and_with_features_the_blocks_too() -> None:
    net = made()
    batches = list(torch.randn(64, 3, 5, 5).split(16))
    plan, small = cut(net, batches[0])
    start = missed(net, small, plan, batches)
    weights = copy.deepcopy(net.state_dict())
    plain, full = small, copy.deepcopy(small)
    told = distill(net, plain, plan, forward, batches, replace(CONFIG, features=0.0))
    distill(net, full, plan, forward, batches, CONFIG)
    without, within = missed(net, plain, plan, batches), missed(net, full, plan, batches)
    assert without[-1] < 0.5 * start[-1]
    assert within[-1] < 0.5 * start[-1]
    assert all(b < 0.9 * a for a, b in zip(without[:-1], within[:-1], strict=True))
    assert told[-1].error == pytest.approx(without[-1], rel=0.5)
    assert len(told) == 30
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())


def test_the_same_seed_gives_the_same_network() -> None:
    net, batches = made(), list(torch.randn(32, 3, 5, 5).split(8))
    plan, first = cut(net, batches[0])
    second = copy.deepcopy(first)
    assert distill(net, first, plan, forward, batches) == distill(net, second, plan, forward, batches)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
