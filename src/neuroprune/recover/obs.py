"""Structured optimal brain surgeon: which units of a layer's inputs cost least when the rest is refitted.

S_G = tr(W_G [H^-1_GG]^-1 W_G^T) for the columns G of one unit; after a removal W -= W_G [H^-1_GG]^-1 H^-1_G: and
H^-1 -= H^-1_:G [H^-1_GG]^-1 H^-1_G: (Hassibi, Stork 1993; for structures Kurtic et al. 2023, ZipLM). Units that
several layers consume are scored by the sum over all of them, each relative to its own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuroprune.recover.moments import DAMPING


@dataclass(frozen=True)
class Consumer:
    """One layer that sums over the units: ``weight`` [groups, outputs, columns], ``hessian`` [groups, c, c] (the
    inputs' second moments, bias row and column included as the last), ``units`` [units, k]: columns of each,
    ``scale``: what an error of it is divided by."""

    weight: Tensor
    hessian: Tensor
    units: Tensor
    scale: float = 1.0


@dataclass(frozen=True)
class Ranking:
    """``order``: units in the order of removal; ``errors[i]``: scaled least-squares error after i removals."""

    order: np.ndarray
    errors: np.ndarray

    def scores(self) -> np.ndarray:
        """[units]: the later a unit goes the higher; increasing errors, so that scores are comparable costs."""
        scores = np.empty(self.order.size)
        scores[self.order] = np.maximum.accumulate(self.errors[1:])
        return scores


class _State:
    """One consumer while units are taken away from it."""

    def __init__(self, consumer: Consumer, damping: float) -> None:
        hessian = consumer.hessian.double()
        mean = hessian.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-30)
        self.units, self.scale = consumer.units, max(consumer.scale, 1e-30)
        self.inverse = _inverse(hessian, mean, damping)
        self.weight = torch.nn.functional.pad(
            consumer.weight.double(), (0, 1)
        )  # the bias is refitted with the rest
        self.groups = self.weight.shape[0]

    def costs(self, alive: Tensor) -> Tensor:
        """[alive units]: error that the removal of each adds."""
        columns = self.units[alive]  # [u, k]
        block = self.inverse[:, columns[:, :, None], columns[:, None, :]]  # [g, u, k, k]
        taken = self.weight[:, :, columns].permute(0, 2, 3, 1)  # [g, u, k, outputs]
        solved = torch.linalg.solve(_safe(block), taken)
        cost: Tensor = (solved * taken).sum((0, 2, 3)) / self.scale
        return cost

    def remove(self, unit: int) -> None:
        columns = self.units[unit]
        block = self.inverse[:, columns[:, None], columns[None, :]]
        factor = torch.linalg.solve(_safe(block), self.inverse[:, columns])  # [g, k, c]
        self.weight -= self.weight[:, :, columns] @ factor
        self.inverse -= self.inverse[:, :, columns] @ factor
        self.weight[:, :, columns] = 0


def rank(consumers: Sequence[Consumer], damping: float = 1e-4) -> Ranking:
    """Greedy order of removal of all units, with the error after each step."""
    states = [_State(consumer, damping) for consumer in consumers]
    count = len(consumers[0].units)
    alive = torch.ones(count, dtype=torch.bool)
    order: list[int] = []
    errors = [0.0]
    while len(order) < count:
        left = alive.nonzero().flatten()
        costs = torch.stack([state.costs(left) for state in states]).sum(0)
        best = int(costs.argmin())
        unit = int(left[best])
        order.append(unit)
        errors.append(errors[-1] + max(float(costs[best]), 0.0))
        alive[unit] = False
        for state in states:
            state.remove(unit)
    return Ranking(np.array(order, dtype=np.int64), np.array(errors))


def _inverse(hessian: Tensor, mean: Tensor, damping: float) -> Tensor:
    eye = torch.eye(hessian.shape[-1], dtype=torch.float64)
    while True:
        factor, failed = torch.linalg.cholesky_ex(hessian + max(damping, DAMPING) * mean * eye)
        if not bool(failed.any()) and bool(factor.isfinite().all()):
            return torch.cholesky_inverse(factor)
        damping = max(damping, DAMPING) * 10
        if damping > 1e3:
            raise ValueError("the statistics are not finite")


def _safe(block: Tensor) -> Tensor:
    """A block of the inverse Hessian whose units are gone already is zero: any invertible one will do."""
    eye = torch.eye(block.shape[-1], dtype=block.dtype)
    size = block.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-30)
    return block + 1e-10 * size * eye
