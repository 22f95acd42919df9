"""Random networks out of supported operators, for property tests of the engine.

A network is drawn as a list of integers, so that a failing one shrinks to a short list and can be written
into a test. Every block maps [N, C, H, W] to [N, C', H', W'] and may look back at earlier results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Past = list[Tensor]


class _Op(nn.Module):
    """A block made of layers and a function of (layers, x, past); x is the last of ``past``."""

    def __init__(self, function: Callable[[nn.ModuleList, Tensor, Past], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.function(self.layers, x, past)


def _through(*layers: nn.Module) -> _Op:
    return _Op(lambda ls, x, _: nn.Sequential(*ls)(x), *layers)


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _gated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * b.sigmoid()


def _excite(layers: nn.ModuleList, x: Tensor) -> Tensor:
    squeezed = layers[0](x.mean((2, 3), keepdim=True)).relu()
    gate: Tensor = layers[1](squeezed).sigmoid()
    return x * gate


def _block(kind: int, past: Past, width: int) -> _Op:
    """The ``kind``-th block after ``past``; ``width`` is its output channels where it may choose.

    Which earlier result a skip looks back at is fixed here, by index: a choice by shape in the forward pass
    would choose another one after a cut.
    """
    c, shape = past[-1].shape[1], past[-1].shape
    skip = next(i for i, p in enumerate(past) if p.shape == shape)
    side = next(i for i, p in enumerate(past) if p.shape[2:] == shape[2:])
    even = 2 if c % 2 == 0 else 1
    makers: list[Callable[[], _Op]] = [
        lambda: _through(nn.Conv2d(c, width, 1)),
        lambda: _through(nn.Conv2d(c, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        lambda: _through(nn.Conv2d(c, c, 3, padding=1, groups=c)),
        lambda: _through(nn.Conv2d(c, 2 * c, 3, padding=1, groups=even)),
        lambda: _through(nn.BatchNorm2d(c), nn.ReLU(inplace=True)),
        lambda: _through(nn.SiLU()),
        lambda: _Op(lambda _, x, __: x.sigmoid() + 1),
        lambda: _Op(lambda _, x, past: x + past[skip]),
        lambda: _Op(lambda _, x, past: torch.cat([past[side], x], 1)),
        lambda: _Op(lambda _, x, __: _gated(x) if even == 2 else x),
        lambda: _Op(lambda _, x, __: _shuffle(x) if even == 2 else x),
        lambda: _Op(lambda _, x, __: x.flip(1) + x),
        lambda: _Op(lambda _, x, __: torch.roll(x, (1, 2), (2, 3))),
        lambda: _Op(lambda _, x, __: F.max_pool2d(F.pad(x, (1, 1, 0, 1)), 2, 1)),
        lambda: _Op(lambda _, x, __: F.interpolate(F.avg_pool2d(x, 2, 2, ceil_mode=True), x.shape[2:])),
        lambda: _Op(lambda _, x, __: x.permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2)),
        lambda: _Op(lambda ls, x, _: _excite(ls, x), nn.Conv2d(c, 3, 1), nn.Conv2d(3, c, 1)),
        lambda: _Op(lambda ls, x, _: x + ls[1](ls[0](x).relu()), nn.Conv2d(c, width, 1), nn.Conv2d(width, c, 1)),
        lambda: _Op(lambda ls, x, _: ls[0](ls[0](x).tanh()), nn.Conv2d(c, c, 1)),
        lambda: _Op(lambda ls, x, _: F.pixel_shuffle(ls[0](x), 2)[..., ::2, ::2], nn.Conv2d(c, 4 * width, 1)),
        lambda: _through(nn.ConvTranspose2d(c, width, 3, padding=1)),
    ]
    return makers[kind % len(makers)]()


BLOCKS = 21


class RandomNetwork(nn.Module):
    """The network that ``genes`` describe; input [N, 3, 5, 5], output [N, 3]."""

    def __init__(self, genes: Sequence[int], *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 4 + genes[0] % 5, 3, padding=1)
        blocks: list[nn.Module] = []
        with torch.no_grad():
            past = [self.stem(torch.zeros(2, 3, 5, 5))]
            for index, gene in enumerate(genes):
                width = 2 + (gene // BLOCKS + index) % 6
                if past[-1].shape[1] > 24:
                    gene = 0  # keep the network small
                blocks.append(_block(gene, past, width))
                past.append(blocks[-1](past[-1], past))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(past[-1].shape[1], 3)
        _randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        past = [self.stem(x)]
        for block in self.blocks:
            past.append(block(past[-1], past))
        scores: Tensor = self.head(past[-1].mean((2, 3)))
        return scores


def _randomise(model: nn.Module) -> None:
    """Batch norms of a fresh network are identities, which would hide mistakes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5)
