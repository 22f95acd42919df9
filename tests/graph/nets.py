"""Small networks with awkward shapes, one operator family each, and what must come of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two blocks on one residual stream; the second projects its shortcut."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.abn = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.short = nn.Conv2d(width, 2 * width, 1, stride=2)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        x = x + self.abn(self.a(x))
        x = F.silu(self.b(x) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PermuteFlatten(nn.Module):
    """permute -> flatten -> linear: the columns of one channel are not neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))


class ChannelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.next(x)


class RollChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.next(torch.roll(self.conv(x), 3, dims=1))


class FlipAdd(nn.Module):
    """x + flip(x): channel i and channel n-1-i must go together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.next(x + x.flip(1))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(3, 8, 1)
        self.depth, self.bn = nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.BatchNorm2d(16)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.hardswish(self.bn(self.depth(self.point(x)))))


class Grouped(nn.Module):
    """A grouped convolution between dense ones: whole groups of 2 channels go."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.grouped = nn.Conv1d(8, 12, 3, padding=1, groups=4)
        self.out = nn.Conv1d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.grouped(self.first(x)).relu())


class Concat(nn.Module):
    """Two branches of different width side by side, one of them also summed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(14, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.out(torch.cat([a, b, a.relu()], dim=1))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3)
        self.up = nn.ConvTranspose2d(6, 8, 3)
        self.deep = nn.ConvTranspose2d(8, 16, 3, groups=4)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.deep(self.up(self.down(x)).relu()))


class Tied(nn.Module):
    """Embedding and output projection share one matrix; its rows are the output, its columns can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.out(x + self.mix(x).relu())


class PadShortcut(nn.Module):
    """Option A of He et al. 2015: the shortcut is strided and padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.wide(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


class BareParameter(nn.Module):
    """A weight and a per-channel scale that no layer wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.ones(6))
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x @ self.weight.t()) * self.scale)


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(3, 6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.einsum("ni,ij->nj", x, self.weight).relu())


class PixelShuffle(nn.Module):
    """Four channels become one: they go together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.pixel_shuffle(self.conv(x), 2))


class Twice(nn.Module):
    """One layer called twice: input and output channels of the shared weight are the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.shared(self.shared(self.first(x).relu()).relu()))


class Reduced(nn.Module):
    """Means over space keep the channel, a mean over the channels is a statistic of what is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.a(x).mean((2, 3))
        over_channels = self.b(x).mean(1, keepdim=True).mean((2, 3))
        return self.out(spatial) + over_channels


IMAGE = (2, 3, 6, 6)
#: model, example shape (or token ids), {group name: (units, {tensor.dim: indices per unit})} written out by hand
CASES = {
    "residual": (Residual, IMAGE, {"stem": 8, "b": 16}),
    "permute_flatten_linear": (PermuteFlatten, IMAGE, {"conv": 6}),
    "channel_shuffle": (ChannelShuffle, IMAGE, {"conv": 4}),
    "roll_channels": (RollChannels, IMAGE, {"conv": 5}),
    "flip_add": (FlipAdd, IMAGE, {"conv": 4}),
    "depthwise": (Depthwise, IMAGE, {"point": 8, "depth": 2}),
    "grouped": (Grouped, (2, 3, 9), {"first": 2, "first#2": 4, "grouped": 3}),
    "concat": (Concat, IMAGE, {"a": 4, "b": 6}),
    "transposed": (Transposed, IMAGE, {"down": 6, "up": 4, "up#2": 2, "deep": 4}),
    "bare_parameter": (BareParameter, (4, 3), {"weight": 6}),
    "einsum": (Einsum, (4, 3), {"weight": 6}),
    "pixel_shuffle": (PixelShuffle, IMAGE, {"conv": 4}),
    "twice": (Twice, (4, 3), {"first": 6}),
    "pad_shortcut": (PadShortcut, IMAGE, {"stem": 4}),
    "reduced": (Reduced, IMAGE, {"a": 6, "b": 6}),
}
