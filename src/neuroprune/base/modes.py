"""Evaluation mode, or gradients, for a while."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuroprune.base.errors import UserError


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is back in its own mode."""
    modes = modes_of(model)
    try:
        set_training(model, False)
        with torch.no_grad():
            yield
    finally:
        put_back_modes(modes)


def modes_of(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    return [(module, module.training) for module in model.modules()]


def put_back_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """The flags alone: what a module does when its mode changes is not done again."""
    for module, training in modes:
        if _is_a_flag(module):
            module.__dict__["training"] = training
        else:
            module.training = training


def set_training(model: nn.Module, training: bool) -> None:
    """``model.train(training)``; straight into the modules' dicts where none does more than set its flag."""
    modules = list(model.modules())
    if any(map(_does_more, modules)):
        model.train(training)
        return
    for module in modules:
        module.__dict__["training"] = training


def _is_a_flag(module: nn.Module) -> bool:
    """Setting ``module.training`` writes into its dict and nothing else."""
    return type(module).__setattr__ is nn.Module.__setattr__ and "training" in module.__dict__


def _does_more(module: nn.Module) -> bool:
    """Its class drops or makes something when the mode changes (a cache of merged weights, say)."""
    kind = type(module)
    plain = kind.train is nn.Module.train and kind.eval is nn.Module.eval and "train" not in module.__dict__
    return not plain or not _is_a_flag(module)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Python looks for garbage cycles after so many new objects: where most are kept, it does so in vain."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextlib.contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """The way that ``forward`` takes in training, without what layers do otherwise then (dropout, batch norm).

    Modules that hold others are in training mode, layers in evaluation mode; no gradients. Put back afterwards.
    """
    with evaluation(model):
        for module in model.modules():
            module.training = any(True for _ in module.children())
        yield


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
def without_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; afterwards those that did do so again."""
    asking = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Tensors that the model makes are float64, like its weights in a proof, also where its code says float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Wider():
            yield
    finally:
        torch.set_default_dtype(before)


class _Wider(TorchFunctionMode):
    """``x.float()`` and ``dtype=torch.float32`` mean float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        named = {key: _wide(value) for key, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


#: what nn.Module keeps for itself
MODULES_OWN = frozenset(nn.Module().__dict__)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Attributes, buffers and parameters that are set meanwhile are gone afterwards."""
    before = [(m.__dict__, dict(m.__dict__), dict(m._buffers), dict(m._parameters)) for m in model.modules()]
    try:
        yield
    finally:
        for current, attributes, buffers, parameters in before:
            put_back(current, attributes)
            put_back(current["_buffers"], buffers)
            put_back(current["_parameters"], parameters)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever the modules write into their attributes, caches and buffers meanwhile is gone afterwards."""
    with restored(model):
        for module in model.modules():
            for key, value in module.__dict__.items():
                if type(value) in (dict, list) and key not in MODULES_OWN:
                    module.__dict__[key] = value.copy()
        yield


def put_back(current: dict[str, Any], saved: dict[str, Any]) -> None:
    """Make the dict itself what it was: others hold it too."""
    current.clear()
    current.update(saved)


def refresh(model: nn.Module) -> nn.Module:
    """Make modules let go of what they computed from their weights in evaluation mode (a cached attention bias).

    Those that cache do so while ``training`` is False, and drop it in ``train()``; each module keeps its own mode.
    """
    if not any(map(_does_more, model.modules())):
        return model
    modes = modes_of(model)
    with contextlib.suppress(UserError):  # a network for inference only has no other mode
        model.train()
    put_back_modes(modes)
    return model


def copy_of(model: nn.Module) -> nn.Module:
    """A copy without what its modules cached in evaluation mode; ``model`` keeps that."""
    with unchanged(model):
        return copy.deepcopy(refresh(model))


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy whose trainable parameters are parameters of their own over the same memory; all else is copied.

    For copies of which none writes into its weights: assigning to a parameter's ``data`` is not writing. What is
    frozen may be a memory that ``forward`` writes into.
    """
    plain = [p for p in model.parameters() if type(p) is nn.Parameter and p.requires_grad]
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in plain}
    return copy.deepcopy(model, memo)
