"""Normalisations and other statistics over channels, PyTorch's own and written by hand.

A statistic over channels changes when channels go: such a cut is right when the small network computes what the
dense one computes with the statistic taken over the kept channels alone (``statistics=True``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, SEQUENCE, Case, normal
from torch import Tensor, nn


class Normed(nn.Module):
    """Convolution -> ``norm`` over a tensor [N, 8, H, W] -> convolution."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)))


class NormedTokens(nn.Module):
    """Linear -> ``norm`` over [N, L, 8] -> linear."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(4, 8), norm, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(x)))


class LayerNorm2d(nn.Module):
    """ConvNeXt's: mean and variance over the channels of an image, by hand."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class VarMeanNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5)


class UnbiasedNorm(nn.Module):
    """x.std(1) divides by the number of channels less one."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)


class LlamaNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class FunctionalNorm(nn.Module):
    """F.layer_norm over a size from an attribute or from the tensor's own shape."""

    def __init__(self, width: int, *, attribute: bool) -> None:
        super().__init__()
        self.width, self.attribute = width, attribute

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,) if self.attribute else x.shape[-1:])


class GroupNormByHand(nn.Module):
    """Channels viewed as groups x width; the number of groups is an attribute."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.groups, -1)
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x.view(n, c, h, w)


class FrozenNorm(nn.Module):
    """Batch norm with nothing but buffers, as in detection backbones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class ResponseNorm(nn.Module):
    """ConvNeXt V2's global response normalisation: norms over space, compared over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        strength = x.norm(p=2, dim=(2, 3), keepdim=True)
        relative = strength / (strength.mean(dim=1, keepdim=True) + 1e-6)
        return x + self.gamma.view(1, -1, 1, 1) * (x * relative) + self.beta.view(1, -1, 1, 1)


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.softmax(1)


class LogSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, dim=1)


class UnitLength(nn.Module):
    """Dividing by the length over the channels: zeros add nothing to it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


class ChannelSum(nn.Module):
    """A sum over the channels, spread again: removed channels add nothing when they are zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum(1, keepdim=True).sigmoid()


class SpatialGate(nn.Module):
    """CBAM's spatial half: mean and maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.mix(seen).sigmoid()


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: every filter gets mean 0 and variance 1 over its inputs, before the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedByHand(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(dim=1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SelectiveKernel(nn.Module):
    """Softmax over branches, not over channels: exact."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.gates = nn.Linear(8, 2 * 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.a(x), self.b(x)], dim=1)  # [N, 2, 8, H, W]
        gates = self.gates(branches.sum(1).mean((2, 3)))
        gates = gates.view(x.shape[0], 2, branches.shape[2]).softmax(1)
        return self.out((branches * gates[..., None, None]).sum(1))


class Stream(nn.Module):
    """Two norms on one residual stream: a statistic of the stream and an exact inner width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.last, self.out = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.out(self.last(x))


BETWEEN = {"conv.weight.0": 8, "conv.bias.0": 8, "out.weight.1": 8}
TOKENS = {"embed.weight.0": 8, "out.weight.1": 8}
AFFINE = {"norm.weight.0": 8, "norm.bias.0": 8}


def between(norm: type[nn.Module], **options: object) -> Case:
    return Case(lambda: Normed(norm()), IMAGE, BETWEEN, **options)


NORMS = {
    "layer_norm": Case(lambda: NormedTokens(nn.LayerNorm(8)), SEQUENCE, TOKENS | AFFINE, statistics=True),
    "layer_norm_plain": Case(
        lambda: NormedTokens(nn.LayerNorm(8, elementwise_affine=False)), SEQUENCE, TOKENS, statistics=True),
    "layer_norm_of_images": Case(
        lambda: Normed(nn.LayerNorm([8, 6, 6])), IMAGE, BETWEEN | AFFINE, statistics=True),
    "layer_norm_functional": Case(
        lambda: NormedTokens(FunctionalNorm(8, attribute=True)), SEQUENCE, TOKENS, statistics=True),
    "layer_norm_of_its_shape": Case(
        lambda: NormedTokens(FunctionalNorm(8, attribute=False)), SEQUENCE, TOKENS, statistics=True),
    "layer_norm_by_hand": Case(lambda: Normed(LayerNorm2d(8)), IMAGE, BETWEEN | AFFINE, statistics=True),
    "layer_norm_stream": Case(
        Stream, SEQUENCE, {"embed.weight.0": 8, "down.weight.0": 8, "last.weight.0": 8, "up.weight.0": 12},
        statistics=True,
    ),
    "var_mean_by_hand": between(VarMeanNorm, statistics=True),
    "unbiased_std_by_hand": between(UnbiasedNorm, statistics=True),
    "rms_norm": Case(
        lambda: NormedTokens(nn.RMSNorm(8)), SEQUENCE, TOKENS | {"norm.weight.0": 8}, statistics=True),
    "rms_norm_by_hand": Case(
        lambda: NormedTokens(LlamaNorm(8)), SEQUENCE, TOKENS | {"norm.weight.0": 8}, statistics=True),
    # whole groups go exactly, the same places of every group with changed statistics: both are right
    "group_norm": Case(lambda: Normed(nn.GroupNorm(4, 8)), IMAGE, shrinks=tuple(BETWEEN), statistics=None),
    "group_norm_one_group": Case(
        lambda: Normed(nn.GroupNorm(1, 8)), IMAGE, BETWEEN | AFFINE, statistics=True),
    "group_norm_per_channel": Case(lambda: Normed(nn.GroupNorm(8, 8)), IMAGE, BETWEEN | AFFINE),
    "group_norm_by_hand": Case(lambda: Normed(GroupNormByHand(4)), IMAGE, shrinks=tuple(BETWEEN), statistics=None),
    "instance_norm": Case(
        lambda: Normed(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), IMAGE,
        BETWEEN | AFFINE | {"norm.running_mean.0": 8},
    ),
    "instance_norm_plain": Case(lambda: Normed(nn.InstanceNorm2d(8)), IMAGE, BETWEEN),
    "frozen_batch_norm": Case(
        lambda: Normed(FrozenNorm(8)), IMAGE, BETWEEN | AFFINE | {"norm.running_var.0": 8}),
    "batch_norm_plain": Case(
        lambda: Normed(nn.BatchNorm2d(8, affine=False)), IMAGE, BETWEEN | {"norm.running_var.0": 8}),
    "response_norm": Case(
        lambda: Normed(ResponseNorm(8)), IMAGE, BETWEEN | {"norm.gamma.0": 8}, statistics=True),
    "softmax_over_channels": between(Softmax, statistics=True),
    "log_softmax_over_channels": between(LogSoftmax, statistics=True),
    "unit_length": between(UnitLength, statistics=None),
    "channel_sum": between(ChannelSum),
    "spatial_gate": between(SpatialGate, statistics=True),
    "weight_standardisation": Case(
        lambda: Normed(StandardisedConv(8, 8, 3, padding=1)), IMAGE,
        {"conv.weight.0": 8, "norm.weight.1": 8, "norm.weight.0": 8, "out.weight.1": 8}, statistics=True,
    ),
    "weight_standardisation_by_hand": Case(
        lambda: Normed(StandardisedByHand(8, 8, 3, padding=1)), IMAGE,
        {"conv.weight.0": 8, "norm.weight.1": 8, "norm.weight.0": 8, "out.weight.1": 8}, statistics=True,
    ),
    "selective_kernel": Case(
        SelectiveKernel, IMAGE, {"a.weight.0": 8, "b.weight.0": 8, "gates.weight.1": 8, "gates.weight.0": 8}),
    # its windows slide over the channels: whoever is removed changes who the neighbours are
    "local_response_norm": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)),
        normal(2, 3, 5, 5), {"2.weight.0": 6}, stays=("0.weight.0", "2.weight.1"),
    ),
}  # fmt: skip
