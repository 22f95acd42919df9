"""A layer and the batch norm behind it as one affine map, read and written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.pruning.design import bias_of, matrix_of, weight_of
from neuroprune.recover.moments import Moments


@dataclass(frozen=True)
class Affine:
    """``layer``, and ``norm`` where a batch norm (in evaluation mode) alone reads it."""

    layer: nn.Module
    norm: _BatchNorm | None = None

    def weight(self) -> Tensor:
        """[groups, outputs per group, columns + 1] float64, the bias last: what the two compute together."""
        matrix, own = matrix_of(self.layer).detach().double(), bias_of(self.layer)
        groups, rows, _ = matrix.shape
        bias = torch.zeros(groups * rows, dtype=torch.float64) if own is None else own.detach().double()
        if self.norm is not None:
            mean, var = _running(self.norm)
            scale = self.norm.weight.detach().double() / (var.double() + self.norm.eps).sqrt()
            matrix = matrix * scale.view(groups, rows, 1)
            bias = (bias - mean.double()) * scale + self.norm.bias.detach().double()
        return torch.cat([matrix, bias.view(groups, rows, 1)], dim=2)

    def can_have_bias(self) -> bool:
        return self.norm is not None or bias_of(self.layer) is not None

    @torch.no_grad()
    def write(self, weight: Tensor, moments: Moments) -> None:
        """Make the two compute ``weight`` (as :meth:`weight` gives it), in place.

        The layer's rows keep their length, and the batch norm gets the mean and variance that these rows have on
        the calibration data, so that training can go on from here.
        """
        matrix, bias, own = weight[:, :, :-1], weight[:, :, -1].reshape(-1), bias_of(self.layer)
        if self.norm is None:
            self._assign(matrix)
            if own is not None:
                own.copy_(bias)
            return
        before = matrix_of(self.layer).double().norm(dim=2, keepdim=True)
        length = matrix.norm(dim=2, keepdim=True)
        factor = torch.where((length > 0) & (before > 0), before / length.clamp_min(1e-30), 1.0)
        self._assign(matrix * factor)
        if own is not None:
            own.zero_()
        mean, var = _statistics(matrix * factor, moments)
        alive = (length.flatten() > 0).double()
        kept_mean, kept_var = _running(self.norm)
        kept_mean.copy_(mean)
        kept_var.copy_(var)
        self.norm.weight.copy_((var + self.norm.eps).sqrt() / factor.flatten() * alive)
        self.norm.bias.copy_(bias + mean / factor.flatten() * alive)

    def _assign(self, matrix: Tensor) -> None:
        kernel = weight_of(self.layer)
        kernel.copy_(matrix.reshape(kernel.shape))


def _running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The tensors themselves."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _statistics(rows: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean and variance of each row's output over the calibration data: [outputs]."""
    count = max(moments.rows, 1)
    mean = (rows @ moments.xx[:, :-1, -1:] / count).flatten()
    square = ((rows @ moments.xx[:, :-1, :-1]) * rows).sum(2).flatten() / count
    return mean, (square - mean.square()).clamp_min(0)
