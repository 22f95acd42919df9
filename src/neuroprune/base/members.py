"""A model's modules, parameters and buffers by name, as PyTorch lists them, without its nested generators.

A trace asks for them a dozen times; in a deep model each of PyTorch's walks costs as much as a layer's rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """``model.named_modules()``: each module once, parents before children, with its dotted name."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if id(module) in seen:
            continue
        if type(module).named_modules is not nn.Module.named_modules:
            return list(model.named_modules())  # a wrapper that lists its modules in its own way
        seen.add(id(module))
        found.append((name, module))
        prefix = f"{name}." if name else ""
        below = [(prefix + key, child) for key, child in module._modules.items() if child is not None]
        waiting += reversed(below)
    return found


def all_modules(model: nn.Module) -> list[nn.Module]:
    return [module for _, module in named_modules(model)]


def named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """``model.named_parameters()``: each parameter once, under its first name."""
    if type(model).named_parameters is not nn.Module.named_parameters:
        return list(model.named_parameters())
    return _members(model, "_parameters")


def named_buffers(model: nn.Module) -> Sequence[tuple[str, Tensor]]:
    """``model.named_buffers()``: each buffer once, under its first name."""
    if type(model).named_buffers is not nn.Module.named_buffers:
        return list(model.named_buffers())
    return _members(model, "_buffers")


def _members(model: nn.Module, table: str) -> list[tuple[str, nn.Parameter]]:
    found: list[tuple[str, nn.Parameter]] = []
    seen: set[int] = set()
    for name, module in named_modules(model):
        for key, tensor in getattr(module, table).items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found.append((f"{name}.{key}" if name else key, tensor))
    return found
