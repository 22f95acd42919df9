"""Build a network whose weights are never written: real CPU tensors whose pages the system never hands out.

A trace looks at shapes only, but at real buffers (index tables, say), which a model on the meta device has lost.
Here large tensors are allocated and left as they are, so a network of seven billion parameters takes less than a
gigabyte, and everything small is as its constructor made it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: tensors with fewer elements are initialised: they may be tables that the forward pass reads
LARGE = 1 << 16

_FILLS = {"normal_", "uniform_", "bernoulli_", "random_", "zero_", "fill_"}
_MOVES = {"mul_", "add_", "sub_", "div_", "clamp_", "erfinv_", "copy_"}


class Unwritten(TorchDispatchMode):
    """Skip what initialises large floating tensors, and every in-place change of those that were skipped."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped: dict[int, Any] = {}  # address -> storage: held, so that no other tensor gets the address

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name, first = func.overloadpacket.__name__, args[0] if args else None
        if isinstance(first, Tensor) and first.numel() >= LARGE and first.is_floating_point():
            storage = first.untyped_storage()
            if name in _FILLS:
                self._skipped[storage.data_ptr()] = storage
                return first
            if name in _MOVES and storage.data_ptr() in self._skipped:
                return first
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def unwritten(lazy: bool) -> Iterator[None]:
    """Build without writing large weights; without ``lazy`` nothing is changed."""
    if not lazy:
        yield
        return
    with Unwritten(), mock.patch.object(nn.init, "_no_grad_trunc_normal_", _bounded):
        yield


_TRUNCATED = nn.init._no_grad_trunc_normal_


def _bounded(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch draws again until every value is within the bounds, which never ends where nothing is written."""
    return tensor if tensor.numel() >= LARGE else _TRUNCATED(tensor, *args, **kwargs)
