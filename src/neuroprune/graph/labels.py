"""Labels: one integer per index of every parameter dimension, carried through the operators.

A **factor** says, for each element of a tensor, which label removes it. Label 0 means "never removed". A
tensor has one factor per independent direction in which it can shrink: a convolution weight has two (output
and input channels), an activation usually one. A dimension that no factor varies along keeps its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = 0


@dataclass(frozen=True, eq=False)
class Factor:
    """``labels``: int64, as many dimensions as the value, size 1 in every dimension not in ``dims``."""

    labels: Tensor
    dims: frozenset[int]

    def full(self, shape: Sequence[int]) -> Tensor:
        """The labels at the value's full shape (a view without copies)."""
        return self.labels.expand(tuple(shape))

    def along(self, dim: int) -> Tensor:
        """The one-dimensional label vector of a factor that varies along ``dim`` alone."""
        assert self.dims == {dim}
        return self.labels.flatten()


Factors = tuple[Factor, ...]


def vector(labels: Tensor, ndim: int, dim: int) -> Factor:
    """A factor that varies along one dimension. ``labels``: [size of that dimension]."""
    shape = [1] * ndim
    shape[dim] = labels.numel()
    return Factor(labels.reshape(shape), frozenset({dim}))


def compress(full: Tensor) -> Factor | None:
    """Find the dimensions along which full-size labels vary; None where nothing is ever removed."""
    if full.numel() == 0 or not bool(full.any()):
        return None
    dims = set()
    for dim, size in enumerate(full.shape):
        if size == 1:
            continue
        first = full.narrow(dim, 0, 1)
        if full.stride(dim) == 0 or bool((full == first).all()):
            full = first
        else:
            dims.add(dim)
    return Factor(full.contiguous(), frozenset(dims))


def move(factor: Factor, shape: Sequence[int], operator: Callable[[Tensor], Tensor]) -> Factor | None:
    """Run a data-movement operator on the labels instead of the values."""
    return compress(operator(factor.full(shape)))


def align(factor: Factor, ndim: int) -> Factor:
    """Prepend dimensions, as broadcasting does, until the factor has ``ndim`` of them."""
    extra = ndim - factor.labels.dim()
    if extra == 0:
        return factor
    labels = factor.labels.reshape((1,) * extra + tuple(factor.labels.shape))
    return Factor(labels, frozenset(dim + extra for dim in factor.dims))


def arange(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.int64)
