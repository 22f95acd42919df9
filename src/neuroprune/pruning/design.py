"""Convolutions and linear layers as matrices: what meets their weights, at a sample of positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def is_affine(module: nn.Module) -> bool:
    """A layer whose matrix :func:`inputs_of` knows: linear, or an ordinary convolution.

    A subclass that computes in its own way (standardises its weight, pads as TensorFlow does) is none of these.
    """
    kind = type(module)
    if isinstance(module, nn.Linear):
        return kind.forward is nn.Linear.forward
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        return False
    return any(
        kind.forward is plain.forward and getattr(kind, "_conv_forward", None) is plain._conv_forward
        for plain in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )


def weight_of(module: nn.Module) -> Tensor:
    """The kernel or matrix of an affine layer."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def bias_of(module: nn.Module) -> Tensor | None:
    bias = module.bias
    return bias if isinstance(bias, Tensor) else None


def matrix_of(module: nn.Module) -> Tensor:
    """The weight as [groups, outputs per group, columns]; a column is one input channel at one kernel position."""
    weight, groups = weight_of(module), int(getattr(module, "groups", 1))
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def positions_of(module: nn.Module, output: Tensor, share: float, generator: torch.Generator) -> Tensor | None:
    """Flat numbers of a random ``share`` of the output positions of one example; None: all of them."""
    space = output.shape[2:] if isinstance(module, _ConvNd) else output.shape[1:-1]
    count = math.prod(space)
    wanted = max(1, math.ceil(share * count))
    return None if wanted >= count else torch.randperm(count, generator=generator)[:wanted].sort().values


def outputs_of(module: nn.Module, output: Tensor, positions: Tensor | None) -> Tensor:
    """What the layer gives, as [outputs, rows] in the order of :func:`inputs_of`. ``output``: [N, C, *space], or
    [N, *, features] of a linear layer."""
    channels = output.flatten(2) if isinstance(module, _ConvNd) else _last_second(output)
    if positions is not None:
        channels = channels.index_select(2, positions)
    return channels.transpose(0, 1).flatten(1)


def inputs_of(module: nn.Module, value: Tensor, positions: Tensor | None) -> Tensor:
    """What meets the weight, as [groups, columns, rows]: rows are examples times positions.

    ``value``: [N, C, *space] for convolutions of any stride, padding (its mode too), dilation and groups;
    [N, *, features] for linear layers.
    """
    if not isinstance(module, _ConvNd):
        rows = _last_second(value)
        rows = rows if positions is None else rows.index_select(2, positions)
        return rows.transpose(0, 1).flatten(1)[None]
    count, groups = len(module.kernel_size), int(module.groups)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(value, module._reversed_padding_repeated_twice, mode=mode)
    for dim in range(count):
        reach = module.dilation[dim] * (module.kernel_size[dim] - 1) + 1
        padded = padded.unfold(2 + dim, reach, module.stride[dim])[..., :: module.dilation[dim]]
    space, kernel = range(2, 2 + count), range(2 + count, 2 + 2 * count)  # of [N, C, *space, *kernel]
    if positions is not None:
        shape = padded.shape[2 : 2 + count]
        places: tuple[Any, ...] = (slice(None), slice(None), *torch.unravel_index(positions, shape))
        padded, space, kernel = padded[places], range(2, 3), range(3, 3 + count)
    columns = padded.shape[1] // groups * math.prod(padded.shape[d] for d in kernel)
    return padded.permute(1, *kernel, 0, *space).reshape(groups, columns, -1)


def _last_second(value: Tensor) -> Tensor:
    """[N, *, F] -> [N, F, positions]."""
    if value.dim() == 1:
        value = value[None]
    return value.reshape(value.shape[0], -1, value.shape[-1]).transpose(1, 2)
