"""The shape of a network's outputs (tensor, tuple, dict) as JSON, so that a file remembers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from neuroprune.base.errors import UserError

#: "tensor" | {"constant": value} | {"tuple": [...]} | {"list": [...]} | {"dict": {key: ...}}
Structure = str | dict[str, Any]


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nesting (tuples, lists, dicts) with ``function`` applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple takes its items apart
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def describe(output: Any) -> Structure:
    """The structure of ``output``. Raises UserError for an object that is no tensor, tuple, list or mapping.

    >>> describe({"logits": torch.zeros(2, 3), "aux": None})
    {'dict': {'logits': 'tensor', 'aux': {'constant': None}}}
    """
    if isinstance(output, Tensor):
        return "tensor"
    if isinstance(output, Mapping):
        return {"dict": {str(key): describe(item) for key, item in output.items()}}
    if isinstance(output, list | tuple):
        return {"list" if isinstance(output, list) else "tuple": [describe(item) for item in output]}
    if output is None or isinstance(output, bool | int | float | str):
        return {"constant": output}
    raise UserError(
        f"the network returns an object of type {type(output).__name__}, which no runtime can return",
        mend="return a tensor, or a tuple, list or dict of tensors",
    )


def rebuild(structure: Structure, leaves: Iterator[Tensor]) -> Any:
    """The inverse of ``describe``: fills the structure with ``leaves`` in order."""
    if not isinstance(structure, dict):
        return next(leaves)
    if "dict" in structure:
        return {key: rebuild(item, leaves) for key, item in structure["dict"].items()}
    if "tuple" in structure:
        return tuple(rebuild(item, leaves) for item in structure["tuple"])
    if "list" in structure:
        return [rebuild(item, leaves) for item in structure["list"]]
    return structure["constant"]


def count(structure: Structure) -> int:
    """Number of tensors in ``structure``."""
    if not isinstance(structure, dict):
        return 1
    items: list[Structure] = [*structure.get("dict", {}).values()]
    items += [*structure.get("tuple", ()), *structure.get("list", ())]
    return sum(count(item) for item in items)
