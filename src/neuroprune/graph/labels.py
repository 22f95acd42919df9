"""Labels: one integer per index of every parameter dimension, carried through the operators.

The labels of a tensor are one int64 array per dimension that can shrink: ``{dim: [size of dim]}``. An index
goes when its label goes. Label 0 means "never removed"; a dimension without a vector keeps its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FIXED = 0

Vector = np.ndarray
Labels = Mapping[int, Vector]
NO_LABELS: Labels = {}


@dataclass(frozen=True, eq=False)
class Spread:
    """Labels after data movement: they vary along ``dims`` and have size 1 in every other dimension."""

    labels: np.ndarray
    dims: tuple[int, ...]


def spread(vector: Vector, dim: int, shape: Sequence[int]) -> Tensor:
    """The vector of dimension ``dim`` at the value's full shape (a view without copies)."""
    flat = [1] * len(shape)
    flat[dim] = vector.size
    return torch.from_numpy(vector.reshape(flat)).expand(tuple(shape))


def compress(full: Tensor) -> Spread | None:
    """Find the dimensions along which full-size labels vary; None where nothing is ever removed."""
    if full.numel() == 0 or not bool(_distinct(full).any()):
        return None
    dims = []
    for dim, size in enumerate(full.shape):
        if size == 1:
            continue
        first = full.narrow(dim, 0, 1)
        if full.stride(dim) == 0 or bool((full == first).all()):
            full = first
        else:
            dims.append(dim)
    return Spread(full.contiguous().numpy(), tuple(dims))


def _distinct(full: Tensor) -> Tensor:
    """``full`` without the repetitions of an expanded view."""
    for dim in range(full.dim()):
        if full.stride(dim) == 0 and full.shape[dim] > 1:
            full = full.narrow(dim, 0, 1)
    return full


def nothing(count: int) -> Vector:
    """Labels of ``count`` indices that all stay."""
    return np.zeros(count, dtype=np.int64)
