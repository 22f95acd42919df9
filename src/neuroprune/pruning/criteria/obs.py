"""Structured optimal brain surgeon: the error that is left when all other inputs make up for the unit."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import GroupView, Part, unit_criterion

#: lambda, relative to the mean of the diagonal
DAMPING = 1e-4


@unit_criterion(
    "obs",
    summary="squared error of all consumers without the unit, their other inputs refitted, over their outputs",
    source="Hassibi, Stork 1993, Optimal brain surgeon; of structures: Kurtic et al. 2023, ZipLM",
    needs=("hessian",),
    absolute=True,
)
def obs(view: GroupView) -> Tensor:
    """S_G = tr(W_G [H^-1_GG]^-1 W_G^T) with H = X X^T + lambda mean(diag) I, over tr(W X X^T W^T).

    G: all kernel positions of the unit's channels; summed over all consumers of the unit. Of one unit at a time,
    all others there: the order of removal with updates after each is ``recover/obs.py``.
    """
    errors = [removal_error(part, part.view.hessian) for part in view.columns if part.view.hessian is not None]
    return torch.stack(errors).sum(0) if errors else torch.empty(0)


def removal_error(part: Part, hessian: Tensor) -> Tensor:
    """A consumer's relative squared error without each unit: [units]. ``hessian``: [groups, columns, columns]."""
    weight = part.view.weight.double()
    kernel = weight[0, 0].numel()
    positions = torch.arange(kernel, device=weight.device)
    columns = (part.indices[:, :, None] * kernel + positions).flatten(1)  # [units, k]
    matrix = weight.reshape(part.groups, weight.shape[0] // part.groups, -1)  # [groups, outputs, columns]
    moments = hessian[:, : matrix.shape[2], : matrix.shape[2]]  # without the row of the bias
    energy = ((matrix @ moments) * matrix).sum()
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    damped = hessian + (DAMPING * diagonal.mean(1).clamp_min(1e-30))[:, None, None] * torch.eye(
        hessian.shape[1], dtype=hessian.dtype, device=hessian.device
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    block = inverse[:, columns[:, :, None], columns[:, None, :]]  # [groups, units, k, k]
    gone = matrix[:, :, columns].permute(0, 2, 3, 1)  # [groups, units, k, outputs]
    error: Tensor = (gone * torch.linalg.solve(block, gone)).sum((0, 2, 3)) / energy.clamp_min(1e-30)
    return error
