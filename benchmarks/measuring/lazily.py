"""Batches that are made when they are asked for, so that data takes no part in a measurement of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor


class Lazily(Sequence[Tensor]):
    """``samples`` images [3, size, size] of smooth noise in batches; the same ones at each access."""

    def __init__(self, samples: int, batch: int, size: int = 32) -> None:
        self.sizes = [min(batch, samples - first) for first in range(0, samples, batch)]
        self.size = size

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(self.sizes[index], 3, self.size, self.size, generator=generator)
        return torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3
