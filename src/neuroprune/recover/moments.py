"""Second moments of a layer's inputs and targets, summed batch by batch: memory does not grow with the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over rows of x x^T, x y^T and y^2, the inputs x with a one below for the bias.

    ``xx``: [groups, columns + 1, columns + 1]; ``xy``: [groups, columns + 1, outputs per group]; ``yy``:
    [outputs]; all float64. ``rows``: how many.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    rows: int = 0

    @classmethod
    def empty(cls, groups: int, columns: int, outputs: int) -> Moments:
        """``outputs``: of all groups together."""
        size = columns + 1
        zeros = torch.zeros
        return cls(
            zeros(groups, size, size, dtype=torch.float64),
            zeros(groups, size, outputs // groups, dtype=torch.float64),
            zeros(outputs, dtype=torch.float64),
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        """``x``: [groups, columns, rows]; ``y``: [outputs, rows]."""
        _, columns, rows = x.shape
        self.add_targets(x, y)
        self.rows += rows
        ones = _centred(x)[2][:, :, 0]
        self.xx[:, :columns, :columns] += _products(x, x)
        self.xx[:, :columns, columns] += ones
        self.xx[:, columns, :columns] += ones
        self.xx[:, columns, columns] += rows

    def add_targets(self, x: Tensor, y: Tensor) -> None:
        """The same without the inputs' own part."""
        groups, columns, rows = x.shape
        y = y.reshape(groups, -1, rows)
        self.xy[:, :columns] += _products(x, y)
        self.xy[:, columns] += _centred(y)[2][:, :, 0]
        self.yy += _squares(y).flatten()

    @property
    def variance(self) -> float:
        """Of the targets, summed over the outputs."""
        mean = self.xy[:, -1].flatten() / self.rows
        return float((self.yy / self.rows - mean.square()).clamp_min(0).sum())

    def error(self, weight: Tensor) -> float:
        """Sum over rows and outputs of (y - W x)^2 for ``weight`` [groups, outputs per group, columns + 1]."""
        crossed = (weight.transpose(1, 2) * self.xy).sum()
        squared = ((weight @ self.xx) * weight).sum()
        return float((self.yy.sum() - 2 * crossed + squared).clamp_min(0))


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Sum over rows of x y^T in float64 for [groups, *, rows] of any precision, multiplied in float32 or better.

    Deviations from the mean are multiplied and the means added in float64: where they are large, float32 products
    of the values themselves would lose what varies.
    """
    (dx, x_mid, x_sum), (dy, y_mid, y_sum) = (one := _centred(x)), one if y is x else _centred(y)
    crossed = (dx @ dy.transpose(1, 2)).double()
    a, b = x_mid.double(), y_mid.double().transpose(1, 2)
    return crossed + a @ y_sum.transpose(1, 2) + (x_sum - x.shape[2] * a) @ b


def _squares(y: Tensor) -> Tensor:
    """Sum over rows of y^2, in the same way."""
    dy, mid, total = _centred(y)
    squares = dy.square().sum(2, keepdim=True).double()
    return squares + mid.double() * (2 * total - y.shape[2] * mid.double())


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations from about the mean, exactly what was taken off, and the exact sum of both."""
    x = x.float() if x.dtype.itemsize < 4 else x
    rows = x.shape[2]
    mid = x.sum(2, keepdim=True) / max(rows, 1)
    deviations = x - mid
    return deviations, mid, deviations.sum(2, keepdim=True).double() + rows * mid.double()


@dataclass(frozen=True)
class Solution:
    """``weight``: [groups, outputs per group, columns + 1], the bias last; ``damping``: what it took."""

    weight: Tensor
    damping: float


#: relative to the mean of the diagonal; grown tenfold until the factorisation succeeds
DAMPING, MOST = 1e-6, 1.0


def least_squares(
    moments: Moments, kept: Tensor, damping: float = DAMPING, prior: Tensor | None = None
) -> Solution:
    """argmin over W of sum (y - W x)^2 + damping |W - prior|^2, columns outside of ``kept`` zero.

    ``kept``: bool [columns] (the bias is always free). ``prior``: [groups, outputs per group, columns + 1],
    towards which the damping pulls (default: zero). Cholesky; the damping grows where the statistics are singular
    (dead channels, fewer rows than columns), and the damping that was used is told. Raises ValueError when they
    are not finite.
    """
    index = torch.cat([kept.nonzero().flatten(), torch.tensor([kept.numel()])])
    gram, cross = moments.xx[:, index][:, :, index], moments.xy[:, index]
    scale = gram.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-30)
    start = None if prior is None else prior.double()[:, :, index].transpose(1, 2)
    while damping <= MOST:
        ridge = damping * scale * torch.eye(index.numel(), dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(gram + ridge)
        if not bool(failed.any()):
            right = cross if start is None else cross + damping * scale * start
            found = torch.cholesky_solve(right, factor)
            if bool(found.isfinite().all()):
                weight = torch.zeros_like(moments.xy).transpose(1, 2).contiguous()
                weight[:, :, index] = found.transpose(1, 2)
                return Solution(weight, damping)
        damping = max(damping * 10, DAMPING)
    raise ValueError("the statistics are not finite, or worse than singular")
