"""Batch norm over the whole batch while several processes have a part of it each, on CPUs too.

torch's own ``SyncBatchNorm`` refuses tensors outside a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.recover.collective import together


@contextmanager
def global_statistics(model: nn.Module) -> Iterator[None]:
    """In training, the batch norms of ``model`` see all processes' examples; every process must run it as often.

    What calls ``functional.batch_norm`` itself sees its own examples only.
    """
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    try:
        for module in found:
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]
        yield
    finally:
        for module in found:
            del module.forward


def _forward(module: _BatchNorm, x: Tensor) -> Tensor:
    """[N, C, ...] -> the same shape."""
    if not module.training:
        return type(module).forward(module, x)
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = x.float() if x.dtype == torch.bfloat16 else x
    own = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
    total = _summed(torch.cat([wide.sum(dims), own]))
    count = total[-1].detach()
    mean = total[:-1] / count  # [C]
    centred = wide - mean.view(shape)
    variance = _summed(centred.square().sum(dims)) / count
    _follow(module, mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
    y = centred * torch.rsqrt(variance + module.eps).view(shape)
    if module.affine:
        y = y * module.weight.view(shape) + module.bias.view(shape)
    return y.to(x.dtype)


@torch.no_grad()
def _follow(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Running statistics, as torch's batch norm keeps them."""
    if not module.track_running_stats or module.running_mean is None or module.running_var is None:
        return
    assert module.num_batches_tracked is not None
    module.num_batches_tracked += 1
    part = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), part)
    module.running_var.lerp_(variance.to(module.running_var.dtype), part)


class _Sum(torch.autograd.Function):
    """Over all processes; so is the gradient, since everybody's loss counts."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return _added_up(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _added_up(gradient.contiguous())


def _added_up(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    with together():
        torch.distributed.all_reduce(total)
    return total


def _summed(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total
