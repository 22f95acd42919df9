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
    """One consumer while units are taken away from it.

    Held are H^-1 and P = W^T W, which is all of W that a cost asks for: S_G = tr([H^-1_GG]^-1 P_GG). With
    F = [H^-1_GG]^-1 H^-1_G: and Q = P_G: - 1/2 P_GG F a removal is H^-1 -= H^-1_:G F and P -= F^T Q + Q^T F. What
    the next choice needs of them is brought up to date at once (each unit's own block), the rest when many
    removals can be made in one product, and columns that are gone are let go of then.
    """

    def __init__(self, consumer: Consumer, damping: float) -> None:
        hessian = consumer.hessian.double()
        mean = hessian.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-30)
        self.units, self.scale = consumer.units.clone(), max(consumer.scale, 1e-30)
        self.inverse = _inverse(hessian, mean, damping)
        # zero: the bias is refitted with the rest, and no cost asks for it
        weight = torch.nn.functional.pad(consumer.weight.double(), (0, 1))
        self.gram = weight.transpose(1, 2) @ weight
        self.begin()

    def begin(self) -> None:
        """Nothing is pending: [groups, pending, columns] each."""
        self.rows = self.factors = self.halves = self.inverse[:, :0]
        across, down = self.units[:, None, :], self.units[:, :, None]
        self.blocks, self.own = self.inverse[:, down, across], self.gram[:, down, across]  # [g, u, k, k]

    def costs(self, left: Tensor) -> Tensor:
        """[units left]: error that the removal of each adds."""
        solved = torch.linalg.solve(_safe(self.blocks[:, left]), self.own[:, left])
        cost: Tensor = solved.diagonal(dim1=2, dim2=3).sum((0, 2)) / self.scale
        return cost

    def remove(self, unit: int) -> None:
        gone = self.units[unit]
        rows = self.inverse[:, gone] - self.rows[:, :, gone].transpose(1, 2) @ self.factors
        factor = torch.linalg.solve(_safe(rows[:, :, gone]), rows)  # [g, k, c]
        theirs = self.gram[:, gone] - self.factors[:, :, gone].transpose(1, 2) @ self.halves
        theirs -= self.halves[:, :, gone].transpose(1, 2) @ self.factors
        half = theirs - theirs[:, :, gone] @ factor / 2
        self.rows, self.factors, self.halves = (
            torch.cat(pair, dim=1) for pair in ((self.rows, rows), (self.factors, factor), (self.halves, half))
        )
        a, f, q = (
            each[:, :, self.units].permute(0, 2, 3, 1) for each in (rows, factor, half)
        )  # [g, u, k, k gone]
        both = f @ q.transpose(2, 3)
        self.blocks -= a @ f.transpose(2, 3)
        self.own -= both + both.transpose(2, 3)

    def settle(self, left: Tensor) -> None:
        """Make what is pending, and forget the columns of units that are not ``left``."""
        stays = torch.ones(self.inverse.shape[1], dtype=torch.bool)
        stays[self.units.flatten()] = False
        stays[self.units[left].flatten()] = True
        index = stays.nonzero().flatten()
        rows, factors, halves = self.rows[:, :, index], self.factors[:, :, index], self.halves[:, :, index]
        both = factors.transpose(1, 2) @ halves
        self.inverse = self.inverse[:, index][:, :, index] - rows.transpose(1, 2) @ factors
        self.gram = self.gram[:, index][:, :, index] - both - both.transpose(1, 2)
        place = torch.zeros_like(stays, dtype=torch.long)  # of what is gone: any
        place[index] = torch.arange(len(index))
        self.units = place[self.units]
        self.begin()


#: columns of removals that are made in one product: more cost more at each step, fewer are slower products
PENDING = 128


def rank(consumers: Sequence[Consumer], damping: float = 1e-4) -> Ranking:
    """Greedy order of removal of all units, with the error after each step; O(columns^3)."""
    states = [_State(consumer, damping) for consumer in consumers]
    left = torch.arange(len(consumers[0].units))
    order: list[int] = []
    errors = [0.0]
    while len(left):
        costs = torch.stack([state.costs(left) for state in states]).sum(0)
        best = int(costs.argmin())
        order.append(unit := int(left[best]))
        errors.append(errors[-1] + max(float(costs[best]), 0.0))
        left = torch.cat([left[:best], left[best + 1 :]])
        for state in states:
            state.remove(unit)
            if len(left) and state.rows.shape[1] >= PENDING:
                state.settle(left)
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
