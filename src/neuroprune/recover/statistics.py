"""Batch-norm statistics measured again on real batches, after a cut or after training under masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.tasks.task import Batch, default_forward


def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], Any] = default_forward,
) -> None:
    """Set running means and variances to their plain average over ``batches``, in place.

    Only batch norm runs in training mode (no dropout). Weights do not change; modes and momenta are put
    back. Rescues cuts without a refit; it *hurts* after a least-squares refit. Raises UserError when
    there are no batches, and leaves the statistics as they were then.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        model.eval()
        for batch in batches:
            for norm in norms if count == 0 else ():
                norm.reset_running_stats()
                norm.train()
                norm.momentum = None  # None is torch's cumulative average
            with torch.no_grad():
                forward(model, batch)
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    if count == 0:
        raise UserError("batch-norm statistics need at least one batch", mend="pass batches that are not empty")
