"""Every integer that a model's modules hold, for the time of a trace replaced by one that knows its place."""

from __future__ import annotations

import contextlib
import enum
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from neuroprune.base.modes import MODULES_OWN, put_back, refresh, restored
from neuroprune.graph.expressions import ATTRIBUTE, SizeInt

_DEPTH = 5
#: of a convolution: none of them counts channels, and its call would hold them fast one by one
_GEOMETRY = frozenset(
    ("kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice")
)
#: what most attributes are that hold no integer
_WITHOUT_SIZES = frozenset((bool, type(None), str, float, torch.dtype, torch.device))


class Place(NamedTuple):
    """Where an integer lives: module path, and a path below it such as ``sizes[1]`` or ``config.hidden_size``."""

    module: str
    path: str
    value: int


@dataclass(frozen=True)
class AttributeEdit:
    """A size that a module keeps in Python, before and after the cut.

    ``name``: an attribute of ``module`` or a path below it, as `neuroprune.pruning.paths` reads them:
    ``num_heads``, ``split_sizes[1]``, ``config.num_heads``, ``table['a'][0]``.
    """

    module: str
    name: str
    before: int
    after: int


class Attributes:
    """The integers of one model. ``places[n]`` is what the leaf ``("attribute", n)`` stands for."""

    def __init__(self, book: Any, stand_in: Callable[[Tensor], Tensor] | None = None) -> None:
        """``stand_in``: what takes the place of each tensor that the modules hold (None: they stay)."""
        self.places: list[Place] = []
        self._stand_in = stand_in
        self._book = book
        self._seen: dict[int, Any] = {}  # containers shared by several modules: converted once
        self._objects: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (an object's dict, as it was)
        self._alive: list[Any] = []  # ids stay unique while their objects live

    @contextlib.contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Replace, and put everything back afterwards: caches written during the trace go too."""
        with restored(model):
            refresh(model)  # what it computed from its weights and keeps would hide them
            try:
                for name, module in list(model.named_modules()):
                    self._convert(name, module)
                yield
            finally:
                for current, saved in reversed(self._objects):
                    put_back(current, saved)

    def _convert(self, name: str, module: nn.Module) -> None:
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                held[key] = self._converted(tensor, name, key, 0)
        without = _GEOMETRY if isinstance(module, _ConvNd) else ()
        for key, value in own_attributes(module):
            if key not in without and type(value) not in _WITHOUT_SIZES:
                module.__dict__[key] = self._converted(value, name, key, 0)

    def _converted(self, value: Any, module: str, path: str, depth: int) -> Any:
        kind = type(value)
        if kind in _WITHOUT_SIZES or depth > _DEPTH:
            return value
        if kind is int:
            self.places.append(Place(module, path, value))
            return SizeInt.of(value, (ATTRIBUTE, len(self.places) - 1), self._book)
        if isinstance(value, Tensor):
            return value if self._stand_in is None else self._stand_in(value)
        if type(value) is tuple or isinstance(value, torch.Size):
            items = [self._converted(v, module, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
            return type(value)(items)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(
                *(self._converted(v, module, f"{path}[{i}]", depth + 1) for i, v in enumerate(value))
            )
        if id(value) in self._seen:
            return self._seen[id(value)]
        if type(value) in (list, dict) or _is_plain_object(value):
            self._alive.append(value)
            return self._container(value, module, path, depth)
        return value

    def _container(self, value: Any, module: str, path: str, depth: int) -> Any:
        if type(value) is list:
            made: Any = []
            self._seen[id(value)] = made
            made += [self._converted(v, module, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
        elif type(value) is dict:
            made = {}
            self._seen[id(value)] = made
            for key, v in value.items():
                made[key] = self._converted(v, module, f"{path}[{key!r}]", depth + 1)
        else:
            made = self._seen[id(value)] = value
            self._objects.append((value.__dict__, dict(value.__dict__)))
            for key, v in list(value.__dict__.items()):
                value.__dict__[key] = self._converted(v, module, f"{path}.{key}", depth + 1)
        return made


def own_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """The module's own attributes: not its parameters, children, hooks and flags."""
    if isinstance(module, torch.jit.ScriptModule):
        return []  # its attributes are compiled in
    return [(key, value) for key, value in module.__dict__.items() if key not in MODULES_OWN]


def _is_plain_object(value: Any) -> bool:
    """A configuration object, say: Python code's own, with a dict, neither a module nor something callable."""
    if isinstance(value, (nn.Module, Tensor, type, enum.Enum, types.ModuleType, torch.Generator)):
        return False
    if callable(value) or type(value).__module__.split(".")[0] in ("torch", "builtins", "numpy", "collections"):
        return False
    return isinstance(getattr(value, "__dict__", None), dict)
