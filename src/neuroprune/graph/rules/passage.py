"""Where a dimension goes as a whole when data is moved: its labels go with it, and need not be moved themselves.

Only a short cut. What is not listed here, or is merged, split or cut, is found by running the operator on labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from neuroprune.graph.labels import Labels, Vector
from neuroprune.graph.rules._base import OpCall

#: (the operator, a dimension of its input) -> the same dimension of every output; None: it does not stay whole
Passage = Callable[[OpCall, int], int | None]


def passed(op: OpCall) -> Labels | None:
    """The labels of every output, where each labelled dimension passes as a whole; nothing is taken otherwise."""
    value, passage = op.args["self"], PASSAGES.get(op.name)
    if passage is None or not op.outputs:
        return None
    out: dict[int, Vector] = {}
    for dim, vector in op.labels_of(value).items():
        to = passage(op, dim) if vector.size > 1 and vector[0] != vector[-1] else None
        if to is None:  # also labels that are all the same: one place or another, that is not seen here
            return None
        out[to] = vector
    op.take_all(value)
    return out


def _permuted(op: OpCall, dim: int) -> int | None:
    ndim = op.args["self"].dim()
    turned: list[int] = [d % ndim for d in op.args["dims"]]
    return turned.index(dim)


def _swapped(op: OpCall, dim: int) -> int | None:
    ndim = op.args["self"].dim()
    pair: tuple[int, int] = (0, ndim - 1)
    if op.name != "t":
        pair = (op.args["dim0"] % ndim, op.args["dim1"] % ndim)
    return pair[1 - pair.index(dim)] if dim in pair else dim


def _shifted(op: OpCall, dim: int) -> int | None:
    """A new dimension of size one before or behind."""
    at: int = op.args["dim"] % op.outputs[0].dim()
    return dim + (dim >= at)


def _expanded(op: OpCall, dim: int) -> int | None:
    behind: int = op.args["self"].dim() - dim
    return op.outputs[0].dim() - behind


def _viewed(op: OpCall, dim: int) -> int | None:
    """As many elements in front of it as before, and as long as before."""
    before, after = op.args["self"].shape, op.outputs[0].shape
    front, outer = math.prod(before[:dim]), 1
    for to, size in enumerate(after):
        if outer == front and size == before[dim]:
            return to
        outer *= size
    return None


def _beside(op: OpCall, dim: int) -> int | None:
    """Another dimension is cut into pieces."""
    return None if dim == op.args["dim"] % op.args["self"].dim() else dim


def _without(op: OpCall, dim: int) -> int | None:
    """Another dimension is taken apart."""
    at: int = op.args["dim"] % op.args["self"].dim()
    return None if dim == at else dim - (dim > at)


PASSAGES: dict[str, Passage] = {
    "permute": _permuted,
    "transpose": _swapped,
    "t": _swapped,
    "unsqueeze": _shifted,
    "expand": _expanded,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias"), _viewed),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _beside),
    **dict.fromkeys(("unbind", "select"), _without),
}
