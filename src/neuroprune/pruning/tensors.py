"""A network's tensors by name, and slices of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each object once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shrink(tensor: Tensor, removed: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A copy of ``tensor`` without the removed indices; its dimensions lie in memory in the same order."""
    if not removed:
        return tensor.clone()
    small = tensor
    for dim, indices in removed.items():
        stays = np.delete(np.arange(tensor.shape[dim]), list(indices))
        small = small.index_select(dim, torch.from_numpy(stays).to(tensor.device))
    if tensor.layout is not torch.strided:  # the gradient of a sparse embedding
        return small
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # channels last stays channels last
    return small.permute(order).contiguous().permute([order.index(dim) for dim in range(tensor.dim())])


def masked(tensor: Tensor, removed: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A copy of ``tensor`` at full size with the removed indices set to zero."""
    tensor = tensor.clone()
    for dim, indices in removed.items():
        tensor.index_fill_(dim, torch.tensor(indices, device=tensor.device), 0)
    return tensor
