"""Convolutions of every rank, transposed and grouped; pixels that become channels and back; patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, ROWS, Case, normal
from torch import Tensor, nn


class OwnGroups(nn.Module):
    """Weight and number of groups belong to the module itself, not to one of PyTorch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 8
        self.first, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv2d(self.first(x), self.weight, padding=1, groups=self.groups))


class GroupsFromShape(nn.Module):
    """A depthwise blur: one kernel, repeated for as many channels as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.out(F.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]))


class UnfoldColumns(nn.Module):
    """Patches as columns [batch, channels * 9, places]: a channel owns nine rows in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.unfold(self.conv(x), 3, padding=1).transpose(1, 2))


class FoldColumns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.out = nn.Linear(5, 6 * 4), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.patches(x).transpose(1, 2)  # [batch, channels * 4, 9]
        return self.out(F.fold(columns, (6, 6), 2, stride=2))


class UnfoldView(nn.Module):
    """Local attention's way: patches viewed as [batch, channels, 9, places] and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        b, c, h, w = x.shape
        patches = F.unfold(x, 3, padding=1).view(b, c, 9, h, w)
        return self.out(patches.amax(2))


class TensorUnfold(nn.Module):
    """Tensor.unfold: sliding windows as a new last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).unfold(2, 4, 2).mean(3))


class PixelUnshuffle(nn.Module):
    """One channel becomes four; shuffled back, they are one again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid = nn.Conv2d(3, 4, 1), nn.Conv2d(16, 24, 1)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.pixel_shuffle(self.mid(F.pixel_unshuffle(self.conv(x), 2)), 2))


class SpaceToDepth(nn.Module):
    """Four strided slices side by side: a channel sits at i, i + C, i + 2 C and i + 3 C."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.out(torch.cat(parts, dim=1))


class SpaceToDepthView(nn.Module):
    """The same in one view, block size an attribute, channels read from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.block = 2
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.size()
        x = x.view(n, c, h // self.block, self.block, w // self.block, self.block)
        x = x.permute(0, 3, 5, 1, 2, 4).contiguous()
        return self.out(x.view(n, c * self.block**2, h // self.block, w // self.block))


class DynamicConv(nn.Module):
    """Expert kernels mixed per sample and run as one convolution with a group per sample (CondConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.outputs = 6, 8
        self.first, self.routing = nn.Conv2d(3, self.inputs, 1), nn.Linear(self.inputs, 4)
        self.experts = nn.Parameter(torch.randn(4, self.outputs * self.inputs * 9))
        self.out = nn.Conv2d(self.outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, _, h, w = x.shape
        weight = self.routing(x.mean((2, 3))).sigmoid() @ self.experts
        weight = weight.view(b * self.outputs, self.inputs, 3, 3)
        x = F.conv2d(x.reshape(1, b * self.inputs, h, w), weight, padding=1, groups=b)
        return self.out(x.view(b, self.outputs, h, w))


class Mixed(nn.Module):
    """Channels split over kernels of several sizes, kept in lists, and joined again (MixConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [4, 6]
        self.first, self.out = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 2, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(c, c, k, padding=k // 2, groups=c) for c, k in zip(self.splits, (3, 5), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.first(x), self.splits, dim=1)
        return self.out(torch.cat([conv(p) for conv, p in zip(self.convs, parts, strict=True)], dim=1))


class Pools(nn.Module):
    """Every pooling and resampling that keeps channels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(36, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        size = x.shape[2:]
        found = [
            F.interpolate(F.adaptive_max_pool2d(x, 2), size=size, mode="bilinear"),
            F.interpolate(F.adaptive_avg_pool2d(x, (2, 3)), size=size, mode="bicubic"),
            F.interpolate(F.avg_pool2d(x, 2, 1), size=size, mode="nearest"),
            F.lp_pool2d(x, 2, 3, 1, ceil_mode=True).mean((2, 3), keepdim=True).expand_as(x),
            F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1],
            F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        ]
        return self.out(torch.cat(found, dim=1))


class GridSampled(nn.Module):
    """Sampling places computed from the input itself (spatial transformer, deformable layers)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.theta = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        theta = self.theta(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.out(F.grid_sample(x, grid, align_corners=False))


def ends(first: nn.Module, second: nn.Module, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, *between, second)


ROW, VOLUME = normal(2, 3, 8), normal(2, 2, 4, 4, 4)

CONV = {
    "conv1d": Case(
        lambda: ends(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 2, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
        ROW, {"0.weight.0": 8, "0.bias.0": 8, "1.running_var.0": 8, "4.weight.1": 8},
    ),
    "conv3d": Case(
        lambda: ends(nn.Conv3d(2, 8, 3, padding=1), nn.Conv3d(8, 2, 1), nn.BatchNorm3d(8), nn.MaxPool3d(2)),
        VOLUME, {"0.weight.0": 8, "1.weight.0": 8, "3.weight.1": 8},
    ),
    "conv3d_grouped": Case(
        lambda: ends(nn.Conv3d(2, 8, 1), nn.Conv3d(8, 2, 1), nn.Conv3d(8, 8, 3, padding=1, groups=8)),
        VOLUME, {"0.weight.0": 8, "1.weight.0": 8, "2.weight.1": 8},
    ),
    "conv1d_grouped": Case(
        lambda: ends(nn.Conv1d(3, 8, 1), nn.Conv1d(12, 2, 1), nn.Conv1d(8, 12, 3, groups=4), nn.ReLU()),
        ROW, among={"0.weight.0": 4, "1.weight.0": 4, "3.weight.1": 4},
    ),
    "conv_padding_modes": Case(
        lambda: ends(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(6, 2, 1),
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"),
        ),
        IMAGE, {"0.weight.0": 8, "1.weight.1": 8, "1.weight.0": 6},
    ),
    "transposed1d": Case(
        lambda: ends(nn.ConvTranspose1d(3, 8, 3, stride=2), nn.ConvTranspose1d(8, 2, 3)),
        ROW, {"0.weight.1": 8, "0.bias.0": 8, "1.weight.0": 8},
    ),
    "transposed3d": Case(
        lambda: ends(nn.ConvTranspose3d(2, 8, 2, stride=2), nn.Conv3d(8, 2, 1)),
        VOLUME, {"0.weight.1": 8, "1.weight.1": 8},
    ),
    "transposed_depthwise": Case(
        lambda: ends(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2, groups=8)),
        IMAGE, {"0.weight.0": 8, "1.weight.0": 8, "2.weight.1": 8},
    ),
    "transposed_grouped": Case(
        lambda: ends(nn.Conv1d(3, 8, 1), nn.Conv1d(12, 2, 1), nn.ConvTranspose1d(8, 12, 3, groups=4)),
        ROW, among={"0.weight.0": 4, "1.weight.0": 4, "2.weight.1": 4},
    ),
    "own_groups": Case(OwnGroups, IMAGE, {"first.weight.0": 8, "weight.0": 8, "out.weight.1": 8}),
    "groups_from_shape": Case(GroupsFromShape, IMAGE, {"first.weight.0": 8, "out.weight.1": 8}),
    "unfold": Case(
        UnfoldColumns, IMAGE, {"conv.weight.0": 6, "out.weight.1": 6},
        footprint={"out.weight.1": [list(range(9 * c, 9 * c + 9)) for c in range(6)]},
    ),
    "fold": Case(
        FoldColumns, normal(2, 9, 5), {"patches.weight.0": 6, "patches.bias.0": 6, "out.weight.1": 6},
        footprint={"patches.weight.0": [list(range(4 * c, 4 * c + 4)) for c in range(6)]},
    ),
    "unfold_view": Case(UnfoldView, IMAGE, {"conv.weight.0": 6, "out.weight.1": 6}),
    "tensor_unfold": Case(TensorUnfold, ROW, {"conv.weight.0": 6, "out.weight.1": 6}),
    "pixel_unshuffle": Case(
        PixelUnshuffle, IMAGE, {"conv.weight.0": 4, "mid.weight.1": 4, "mid.weight.0": 6, "out.weight.1": 6},
        footprint={"mid.weight.1": [[4 * c, 4 * c + 1, 4 * c + 2, 4 * c + 3] for c in range(4)]},
    ),
    "space_to_depth": Case(
        SpaceToDepth, IMAGE, {"conv.weight.0": 6},
        footprint={"out.weight.1": [[c, c + 6, c + 12, c + 18] for c in range(6)]},
    ),
    "space_to_depth_view": Case(
        SpaceToDepthView, IMAGE, {"conv.weight.0": 6},
        footprint={"out.weight.1": [[c, c + 6, c + 12, c + 18] for c in range(6)]},
    ),
    # experts.1 is flat: outputs x inputs x 3 x 3, so outputs and inputs are two groups of one dimension
    "dynamic_conv": Case(
        DynamicConv, IMAGE, {"first.weight.0": 6, "routing.weight.1": 6}),
    "mixed_kernels": Case(
        Mixed, IMAGE,
        {"first.weight.0": (4, 6), "convs.0.weight.0": 4, "convs.1.weight.0": 6, "out.weight.1": (4, 6)},
    ),
    "pools": Case(Pools, IMAGE, {"conv.weight.0": 6, "out.weight.1": 6}),
    "grid_sample": Case(GridSampled, IMAGE, {"conv.weight.0": 6, "theta.weight.1": 6, "out.weight.1": 6}),
    "batchnorm_of_rows": Case(
        lambda: ends(nn.Linear(3, 8), nn.Linear(8, 2), nn.BatchNorm1d(8), nn.PReLU(8), nn.Dropout()),
        ROWS, {"0.weight.0": 8, "1.running_mean.0": 8, "2.weight.0": 8, "4.weight.1": 8},
    ),
}  # fmt: skip
