"""Layout of convolutions: no other numbers, and the usual layout where the network cannot do with another."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.modes import evaluation
from neuroprune.recover.layout import channels_innermost, channels_outermost


class Net(nn.Module):
    def __init__(self, *, views: bool) -> None:
        super().__init__()
        self.conv, self.deep, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6 * 4, 2)
        self.views = views

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(self.conv(x).relu())
        return self.head(x.view(len(x), -1) if self.views else x.flatten(1))  # type: ignore[no-any-return]


def forward(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def innermost(net: nn.Module) -> list[bool]:
    return [m.weight.is_contiguous(memory_format=torch.channels_last) and not m.weight.is_contiguous()
            for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]  # fmt: skip


def test_channels_go_innermost_and_back_and_the_network_stays_the_same() -> None:
    net, x = Net(views=False), torch.randn(5, 3, 6, 6)
    plain = copy.deepcopy(net)
    assert innermost(channels_innermost(net, forward, x)) == [True]
    with evaluation(net), evaluation(plain):
        torch.testing.assert_close(net(x), plain(x))
    assert innermost(channels_outermost(net)) == [False]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_a_network_that_views_its_values_keeps_the_usual_layout() -> None:
    net, x = Net(views=True), torch.randn(5, 3, 6, 6)
    assert innermost(channels_innermost(net, forward, x)) == [False]
    assert net(x).shape == (5, 2)


def test_a_network_whose_outputs_depend_on_the_layout_keeps_the_usual_one() -> None:
    class Storage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.conv(x)
            return out.as_strided((out.numel(),), (1,))  # as it lies in memory

    net, x = Storage(), torch.randn(2, 3, 3, 3)
    assert innermost(channels_innermost(net, forward, x)) == [False]
