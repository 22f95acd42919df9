"""Example inputs and outputs: any nesting of tuples, lists, dicts, dataclasses and output objects."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuroprune.base.errors import UserError

_DEPTH = 8
Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_calls(example_inputs: Any) -> list[Call]:
    """A tensor, a tuple of positional or a dict of keyword arguments; or a list of these: several calls."""
    if isinstance(example_inputs, list):
        if not example_inputs:
            raise UserError(
                "there are no example inputs", value="an empty list", mend="give one call, or a list of calls"
            )
        return [as_call(inputs) for inputs in example_inputs]
    return [as_call(example_inputs)]


def as_call(inputs: Any) -> Call:
    """One call as (args, kwargs)."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple) else ((inputs,), {})


def map_tensors(change: Callable[[Tensor], Any], value: Any, depth: int = 0) -> Any:
    """``value`` with every tensor replaced; containers and dataclasses are copied, other objects stay."""
    if isinstance(value, Tensor):
        return change(value)
    if depth > _DEPTH or isinstance(value, (str, bytes, type, nn.Module)):
        return value
    if isinstance(value, tuple):
        items = [map_tensors(change, item, depth + 1) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) in (list, set):
        return type(value)(map_tensors(change, item, depth + 1) for item in value)
    if type(value) is dict:
        return {key: map_tensors(change, item, depth + 1) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and isinstance(getattr(value, "__dict__", None), dict):
        made = copy.copy(value)
        for key, item in vars(value).items():
            object.__setattr__(made, key, map_tensors(change, item, depth + 1))
        return made
    return value


def with_one_more(inputs: Any) -> Any:
    """The inputs with their first example once more at the end: another batch size."""
    return map_tensors(lambda x: torch.cat([x, x[:1]]) if x.dim() else x, inputs)


def tensors_in(value: Any, depth: int = 0) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts, dataclasses and mapping-like output objects."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif depth < _DEPTH and isinstance(leaf, Mapping):
            found += tensors_in(dict(leaf), depth + 1)
        elif depth < _DEPTH and dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_in([getattr(leaf, f.name) for f in dataclasses.fields(leaf)], depth + 1)
        elif depth < _DEPTH and hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)):
            found += tensors_in(dict(vars(leaf)), depth + 1)
    return found
