"""Convolutions with the channels innermost: twice as fast on processors, and no other numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neuroprune.base.modes import evaluation
from neuroprune.graph.calls import tensors_in
from neuroprune.recover.replay import Forward

#: of outputs, relative to the largest value: what another order of summation changes
CLOSE = 1e-3


def channels_innermost(model: nn.Module, forward: Forward, batch: Any) -> nn.Module:
    """Lay out the weights of 2-D convolutions of ``model`` so, in place, where ``forward`` can do with it.

    Values of layers are then laid out in the same way, which code that calls ``view`` on them refuses.
    """
    with evaluation(model):
        before = tensors_in(forward(model, batch))
        _lay_out(model, torch.channels_last)
        try:
            after = tensors_in(forward(model, batch))
        except RuntimeError:
            after = []
    if len(after) != len(before) or not all(_close(a, b) for a, b in zip(after, before, strict=True)):
        _lay_out(model, torch.contiguous_format)
    return model


def channels_outermost(model: nn.Module) -> nn.Module:
    """The layout that PyTorch's constructors give, in place."""
    return _lay_out(model, torch.contiguous_format)


def _lay_out(model: nn.Module, form: torch.memory_format) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.weight.data = module.weight.data.contiguous(memory_format=form)
    return model


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and bool((a == b).all())
    return bool((a - b).abs().max() <= CLOSE * b.abs().max().clamp_min(1e-30))
