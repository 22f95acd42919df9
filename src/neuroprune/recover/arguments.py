"""What a module is called with, as tensors of examples and everything else, so that examples can be picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class _Examples:
    """Stands where a tensor of examples goes."""


_HERE = _Examples()


@dataclass(frozen=True)
class Arguments:
    """``examples``: tensors with one row per example; ``rest``: all other leaves of (args, kwargs), in place."""

    examples: tuple[Tensor, ...]
    rest: tuple[Any, ...]
    spec: TreeSpec

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], count: int) -> Arguments:
        """Tensors whose dimension 0 has ``count`` rows are taken for examples."""
        leaves, spec = tree_flatten((args, dict(kwargs)))
        told = [isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count for leaf in leaves]
        examples = tuple(leaf for leaf, is_example in zip(leaves, told, strict=True) if is_example)
        rest = tuple(_HERE if is_example else leaf for leaf, is_example in zip(leaves, told, strict=True))
        return cls(examples, rest, spec)

    def call(self, module: Callable[..., Any], examples: Sequence[Tensor]) -> Any:
        """``module`` on these examples instead, the rest as it was."""
        left = iter(examples)
        leaves = [next(left) if leaf is _HERE else leaf for leaf in self.rest]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return module(*args, **kwargs)

    def fits(self, other: Arguments) -> bool:
        """Whether the two calls differ in their examples alone."""
        return self.spec == other.spec and all(_same(a, b) for a, b in zip(self.rest, other.rest, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    try:
        return a is b or bool(a == b)
    except Exception:  # objects that refuse to be compared
        return False
