"""Convolutions whose kernels may become 1x1: the centre stays, everything around it goes.

The smaller kernel meets the same positions as the centre did, so a plan can say it: indices of the kernel's
dimensions are removed, and the layer's kernel size and padding follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning.design import is_affine, matrix_of
from neuroprune.pruning.plan import Plan


def shrinkable(model: nn.Module) -> dict[str, float]:
    """Convolution -> the share of its weights that a 1x1 kernel keeps.

    Ordinary convolutions with an odd kernel, padded by zeros so that the centre meets every position.
    """
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd) and is_affine(module) and _is_centred(module):
            found[name] = 1.0 / math.prod(module.kernel_size)
    return found


def _is_centred(module: _ConvNd) -> bool:
    if isinstance(module.padding, str) or module.padding_mode != "zeros" or math.prod(module.kernel_size) == 1:
        return False
    sizes = zip(module.kernel_size, module.padding, module.dilation, strict=True)
    return all(size % 2 == 1 and padding == reach * (size // 2) for size, padding, reach in sizes)


def taps(model: nn.Module, layer: str) -> Tensor:
    """bool [columns] of the layer's matrix: those that are not the kernel's centre."""
    module = model.get_submodule(layer)
    assert isinstance(module, _ConvNd)
    kernel = math.prod(module.kernel_size)
    place = torch.arange(matrix_of(module).shape[2]) % kernel
    return place != kernel // 2


def with_kernels(plan: Plan, model: nn.Module, layers: Iterable[str]) -> Plan:
    """``plan``, and 1x1 kernels in these layers of the dense ``model``."""
    removed, edits = {name: dict(dims) for name, dims in plan.removed.items()}, list(plan.attributes)
    for layer in layers:
        module = model.get_submodule(layer)
        assert isinstance(module, _ConvNd)
        dims = removed.setdefault(f"{layer}.weight", {})
        for number, size in enumerate(module.kernel_size):
            if size > 1:
                dims[2 + number] = tuple(i for i in range(size) if i != size // 2)
        edits += _edits(layer, module)
    return replace(plan, removed=dict(sorted(removed.items())), attributes=tuple(edits))


def _edits(layer: str, module: _ConvNd) -> list[AttributeEdit]:
    """Sizes that the layer keeps about its kernel. The last one is what PyTorch pads by in some of its ways."""
    after = {"kernel_size": 1, "padding": 0, "_reversed_padding_repeated_twice": 0}
    return [
        AttributeEdit(layer, f"{name}[{number}]", int(before), value)
        for name, value in after.items()
        for number, before in enumerate(getattr(module, name))
        if before != value
    ]
