"""Blocks from image to image: [N, C, 5, 5] -> [N, C', 5, 5]. The first is what failing networks shrink to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from neuroprune.testing.blocks._base import SIDE, Block, Function, Menu, Past, Site, Through, on

IMAGE: Menu = []


@on(IMAGE)
def pointwise(site: Site) -> Block:
    return Through(nn.Conv2d(site.channels, site.width, 1))


@on(IMAGE)
def normed(site: Site) -> Block:
    return Through(
        nn.Conv2d(site.channels, site.width, 3, padding=1, bias=False), nn.BatchNorm2d(site.width), nn.ReLU()
    )


@on(IMAGE)
def depthwise(site: Site) -> Block:
    return Through(nn.Conv2d(site.channels, site.channels, 3, padding=1, groups=site.channels))


@on(IMAGE)
def grouped(site: Site) -> Block:
    return Through(nn.Conv2d(site.channels, 2 * site.channels, 3, padding=1, groups=site.even))


@on(IMAGE)
def renormed(site: Site) -> Block:
    return Through(nn.BatchNorm2d(site.channels), nn.ReLU(inplace=True))


@on(IMAGE)
def activation(site: Site) -> Block:
    functions = (F.silu, torch.tanh, F.gelu, F.hardswish, lambda x: x.sigmoid() + 1, lambda x: 1 / (1 + x.abs()))
    return Function(functions[site.choice % len(functions)])


@on(IMAGE)
class Skip(Block):
    """Adds an earlier result of the same shape."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.twin = site.twin

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return x + past[self.twin]


@on(IMAGE)
class Join(Block):
    """Two results of unequal width side by side."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.side = site.side

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return torch.cat([past[self.side], x], 1)


@on(IMAGE)
def gated(site: Site) -> Block:
    def gate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b.sigmoid()

    return Function(gate) if site.even == 2 and site.channels >= 4 else pointwise(site)


@on(IMAGE)
class Shuffle(Block):
    """Channels viewed as groups x width and swapped; the number of groups is an attribute."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.groups = site.even

    def forward(self, x: Tensor, past: Past) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@on(IMAGE)
def mirrored(site: Site) -> Block:
    return Function(lambda x: x.flip(1) + x)


@on(IMAGE)
def rolled(site: Site) -> Block:
    if site.choice % 2:
        return Function(lambda x: torch.roll(x, (1, 2), (2, 3)))
    return Function(lambda x: torch.roll(x, 1, 1))


@on(IMAGE)
def pooled(site: Site) -> Block:
    if site.choice % 2:
        return Function(lambda x: F.max_pool2d(F.pad(x, (1, 1, 0, 1)), 2, 1)[..., :SIDE, :SIDE])
    return Function(lambda x: F.interpolate(F.avg_pool2d(x, 2, 2, ceil_mode=True), x.shape[2:]))


@on(IMAGE)
def permuted(site: Site) -> Block:
    return Function(lambda x: x.permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2))


@on(IMAGE)
class Excite(Block):
    """Squeeze and excite."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(site.channels, 3, 1), nn.Conv2d(3, site.channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        gate: Tensor = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate


@on(IMAGE)
class Residual(Block):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.inside, self.back = nn.Conv2d(site.channels, site.width, 1), nn.Conv2d(site.width, site.channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        change: Tensor = self.back(self.inside(x).relu())
        return x + change


@on(IMAGE)
class Twice(Block):
    """One layer called twice."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.layer = nn.Conv2d(site.channels, site.channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.layer(self.layer(x).tanh())
        return found


@on(IMAGE)
class Shared(Block):
    """Two layers with one weight and two biases."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(site.channels, site.width, 1), nn.Conv2d(site.channels, site.width, 1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.a(x) + self.b(x.flip(3)).relu()
        return found


@on(IMAGE)
def pixels(site: Site) -> Block:
    shuffled = Function(lambda x: F.pixel_shuffle(x, 2)[..., ::2, ::2])
    return _Chain(Through(nn.Conv2d(site.channels, 4 * site.width, 1)), shuffled)


@on(IMAGE)
def depth(site: Site) -> Block:
    """Space to depth on an enlarged image, back to the old width by a convolution."""
    enlarged = Function(lambda x: F.pixel_unshuffle(F.interpolate(x, scale_factor=2.0, mode="bilinear"), 2))
    return _Chain(enlarged, Through(nn.Conv2d(4 * site.channels, site.width, 1)))


@on(IMAGE)
def transposed(site: Site) -> Block:
    return Through(nn.ConvTranspose2d(site.channels, site.width, 3, padding=1))


@on(IMAGE)
class Split(Block):
    """Unequal pieces, their sizes in a list; each to a layer of its own, or changed and joined again."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        first = max(1, site.channels // 3)
        self.sizes = [first, site.channels - first]
        self.layers = nn.ModuleList(nn.Conv2d(size, site.width, 1) for size in self.sizes)
        self.join = bool(site.choice % 2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        a, b = torch.split(x, self.sizes, dim=1)
        if self.join:
            return torch.cat([b.tanh(), a], dim=1)
        found: Tensor = self.layers[0](a) + self.layers[1](b).relu()
        return found


@on(IMAGE)
class Sliced(Block):
    """A bound kept as an attribute, used from both sides (FasterNet's partial convolution)."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.bound = max(1, site.channels // 4)
        self.layer = nn.Conv2d(self.bound, self.bound, 3, padding=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return torch.cat([self.layer(x[:, : self.bound]), x[:, self.bound :]], dim=1)


@on(IMAGE)
class Places(Block):
    """Pixels reordered, or masked, by a buffer."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(SIDE * SIDE))
        self.register_buffer("mask", torch.rand(SIDE, SIDE) < 0.7)
        self.reorder = bool(site.choice % 2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        order, mask = self.get_buffer("order"), self.get_buffer("mask")
        if self.reorder:
            return x.flatten(2)[:, :, order].reshape(x.shape)
        return torch.where(mask, x, x.new_zeros(()))


@on(IMAGE)
class Repeat(Block):
    """Every channel several times in a row, narrowed by a convolution."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.times = 2
        self.layer = nn.Conv2d(2 * site.channels, site.width, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.layer(x.repeat_interleave(self.times, dim=1))
        return found


@on(IMAGE)
def statistics(site: Site) -> Block:
    if site.choice % 3 == 0:
        return Through(nn.GroupNorm(site.even, site.channels))
    if site.choice % 3 == 1:
        return Through(nn.InstanceNorm2d(site.channels, affine=True))
    return Function(lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1).sqrt())


@on(IMAGE)
class Columns(Block):
    """A recurrent layer over the columns of the image; its steps become the image's columns."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        layer = nn.LSTM if site.choice % 2 else nn.GRU
        self.layer = layer(site.channels, site.width, batch_first=True)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        steps: Tensor = self.layer(x.mean(2).transpose(1, 2))[0]
        return steps.transpose(1, 2).unsqueeze(2).expand(-1, -1, x.shape[2], -1)


@on(IMAGE)
class Windows(Block):
    """Rolled, padded, partitioned into windows, changed within, and put back; the window is an attribute."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.window = 2 + site.choice % 2
        self.layer = nn.Linear(site.channels, site.channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        size = self.window
        b, c, h, w = F.pad(x, (0, 1, 0, 1)).shape
        y = F.pad(x, (0, 1, 0, 1)).roll((-1, -1), (2, 3))
        y = y.reshape(b, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, c)
        y = self.layer(y - y.mean(1, keepdim=True))
        y = y.view(b, h // size, w // size, size, size, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        inside: Tensor = y[..., :-1, :-1]
        return inside + x


@on(IMAGE)
class Einsum(Block):
    """A bare matrix, a bare scale, and a buffer."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(site.channels, site.width))
        self.scale = nn.Parameter(torch.rand(site.width, 1, 1) + 0.5)
        self.register_buffer("shift", torch.randn(1, site.width, 1, 1))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, self.weight) * self.scale + self.get_buffer("shift")


@on(IMAGE)
def parametrised(site: Site) -> Block:
    return Through(parametrizations.spectral_norm(nn.Conv2d(site.channels, site.width, 3, padding=1)))


@on(IMAGE)
class Branches(Block):
    """Branches stacked in a new axis, weighted by a softmax over it, summed."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.layer = nn.Conv2d(site.channels, site.channels, 3, padding=1)
        self.weights = nn.Parameter(torch.randn(2, 1, 1, 1))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        stacked = torch.stack([x, self.layer(x)], dim=1)
        a, b = (stacked * self.weights.softmax(0)).unbind(1)
        return torch.maximum(a, b) + stacked.sum(1)


@on(IMAGE)
class Unfold(Block):
    """Patches as columns, read by a convolution over them."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.layer = nn.Conv1d(9 * site.channels, site.width, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        columns: Tensor = self.layer(F.unfold(x, 3, padding=1))
        return columns.view(x.shape[0], -1, *x.shape[2:])


@on(IMAGE)
class Dense(Block):
    """Two layers, each of which reads all before it."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.a = nn.Conv2d(site.channels, 3, 1)
        self.b = nn.Conv2d(site.channels + 3, 2, 3, padding=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found = [x]
        for layer in (self.a, self.b):
            found.append(layer(torch.cat(found, 1)).relu())
        return torch.cat(found, 1)


@on(IMAGE)
def volume(site: Site) -> Block:
    """A 3-D convolution on one frame."""
    frames = Through(
        nn.Unflatten(2, (1, SIDE)), nn.Conv3d(site.channels, site.width, (1, 3, 3), padding=(0, 1, 1))
    )
    return _Chain(frames, Function(lambda x: x.squeeze(2)))


class _Chain(Block):
    def __init__(self, *blocks: Block) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for block in self.blocks:
            x = block(x, past)
        return x
