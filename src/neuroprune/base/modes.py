"""Evaluation mode, or gradients, for a while."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from neuroprune.base.errors import UserError


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def gradients(model: nn.Module, *, everywhere: bool = False) -> Iterator[None]:
    """Let the parameters have gradients for a while, where none of them has (a checkpoint for inference).

    ``everywhere``: also where only some are frozen. Afterwards each is as it was given; what was frozen keeps no
    ``.grad``.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    if not everywhere and any(p.requires_grad for p in model.parameters()):
        frozen = []
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
            parameter.grad = None


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Tensors that the model makes without naming a type are float64, like its weights in a proof."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever the modules write into their attributes, caches and buffers meanwhile is gone afterwards."""
    before = [(m.__dict__, dict(m.__dict__), dict(m._buffers), dict(m._parameters)) for m in model.modules()]
    try:
        for current, _, _, _ in before:
            for key, value in current.items():
                if type(value) in (dict, list) and key not in _MODULES_OWN:
                    current[key] = value.copy()
        yield
    finally:
        for current, saved, buffers, parameters in before:
            current.clear()
            current.update(saved)
            for held, values in ((current["_buffers"], buffers), (current["_parameters"], parameters)):
                held.clear()
                held.update(values)


#: what nn.Module keeps for itself
_MODULES_OWN = frozenset(nn.Module().__dict__)


def refresh(model: nn.Module) -> nn.Module:
    """Make modules let go of what they computed from their weights in evaluation mode (a cached attention bias).

    Those that cache do so while ``training`` is False, and drop it in ``train()``; each module keeps its own mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    with contextlib.suppress(UserError):  # a network for inference only has no other mode
        model.train()
    for module, training in modes:
        module.training = training
    return model


def copy_of(model: nn.Module) -> nn.Module:
    """A copy without what its modules cached in evaluation mode; ``model`` keeps that."""
    with unchanged(model):
        return copy.deepcopy(refresh(model))
