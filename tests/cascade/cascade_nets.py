"""A small trained network and its task, which several files of tests cut into a cascade."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.task import Task


class Net(nn.Module):
    """A residual stream, batch norms, and widths that differ: [N, 1, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a, self.n, self.b = (
            nn.Conv2d(12, 20, 3, padding=1),
            nn.BatchNorm2d(20),
            nn.Conv2d(20, 12, 3, padding=1),
        )
        self.c = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.n(self.a(x)).relu())
        return self.head(self.c(x.relu()).relu().mean((2, 3)))


@functools.cache
def digits() -> Task:
    return load_task("digits", seed=0, batch_size=64)


@functools.cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    fit(net, digits(), FitConfig(epochs=3, lr=5e-3, optimizer="adamw"))
    return net.eval()
