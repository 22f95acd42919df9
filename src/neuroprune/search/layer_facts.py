"""What an agent sees of the layer that makes a group's units, beside how many they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LayerFacts:
    """Of the dense layer. ``kind``: ``convolution``, ``linear`` or ``other``; ``inputs``: its input channels;
    ``stride``, ``kernel``: along the first dimension, 1 where there is none; ``weights``: how many it has."""

    kind: str = "other"
    inputs: int = 0
    stride: int = 1
    kernel: int = 1
    weights: int = 0


def layer_facts(model: nn.Module, tensor: str) -> LayerFacts:
    """Of the layer whose parameter ``tensor`` is (``layer1.0.conv1.weight``)."""
    layer, _, name = tensor.rpartition(".")
    module: Any = model.get_submodule(layer)
    weight = getattr(module, name)
    inputs = weight.shape[1] if weight.dim() > 1 else 0
    if isinstance(module, nn.modules.conv._ConvNd):
        return LayerFacts(
            "convolution", module.in_channels, module.stride[0], module.kernel_size[0], module.weight.numel()
        )
    return LayerFacts("linear" if isinstance(module, nn.Linear) else "other", inputs, weights=weight.numel())
