"""All or nothing: networks and what belongs to them, put back as they were when a change breaks off half way."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.pruning import paths

Table = MutableMapping[Any, Any] | list[Any]


@dataclass(frozen=True, eq=False)
class Swap:
    """A tensor object that gets other contents, of another shape perhaps; ``grad`` becomes its gradient."""

    tensor: Tensor
    data: Tensor
    grad: Tensor | None = None

    def carry_out(self) -> None:
        if self.tensor.is_leaf:
            self.tensor.grad = None  # of the old shape, it would not go with the new one
        if self.tensor.requires_grad:
            # A graph that is still alive (the loss of the last step) keeps the node that adds gradients to this
            # parameter, and the node keeps the old shape: the next backward would fail. Torch makes a new one
            # when the data type changes.
            other = torch.float32 if self.tensor.dtype == torch.float64 else torch.float64
            self.tensor.data = torch.empty(0, dtype=other, device=self.tensor.device)
        self.tensor.data = self.data
        if self.grad is not None:
            self.tensor.grad = self.grad


@contextlib.contextmanager
def all_or_nothing(
    networks: Iterable[nn.Module],
    swaps: Sequence[Swap],
    places: Iterable[paths.Place],
    tables: Iterable[Table] = (),
) -> Iterator[None]:
    """Inside the block tensors, modules and attributes may be changed; an exception puts all of them back.

    Taken back are: the tensors of ``swaps``, every attribute, parameter, buffer and child of every module of
    ``networks``, ``places``, and the entries of ``tables``. KeyboardInterrupt counts as an exception. Nothing is
    copied but references.
    """
    undo: list[Callable[[], None]] = []
    for network in networks:
        for module in network.modules():
            undo += _remembered(module)
    undo += [paths.remember(place) for place in places]
    undo += [_table_as_now(table) for table in tables]
    undo += [_as_now(swap.tensor).carry_out for swap in swaps]
    try:
        yield
    except BaseException:
        for put_back in undo:
            put_back()
        raise


def _as_now(tensor: Tensor) -> Swap:
    return Swap(tensor, tensor.data, tensor.grad if tensor.is_leaf else None)


def _table_as_now(table: Table) -> Callable[[], None]:
    if isinstance(table, list):
        return functools.partial(table.__setitem__, slice(None), list(table))
    return functools.partial(paths.put_back_dict, table, dict(table))


def _remembered(module: nn.Module) -> list[Callable[[], None]]:
    held = vars(module)
    tables = [held, *(held[name] for name in ("_parameters", "_buffers", "_modules") if name in held)]
    return [functools.partial(paths.put_back_dict, table, dict(table)) for table in tables]
