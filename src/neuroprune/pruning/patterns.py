"""Patterns: which weights of a tensor go together, from single ones to the blocks that a runtime's kernels skip.

A pattern turns a saliency of the weight's shape into one in which the members of a block share a value, so that a
threshold takes whole blocks; N:M also says itself how many go. A weight is looked at as a matrix: outputs are
rows, inputs are columns, and kernel positions are further matrices beside each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest

Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pattern:
    """``pool``: saliency -> the same shape, the mean of its block at every weight. ``keep_of``: N:M of N:M, whose
    share of zeros is fixed; (0, 0) where the caller says how many go."""

    name: str
    pool: Pool
    keep_of: tuple[int, int] = (0, 0)

    @property
    def fixed(self) -> bool:
        return self.keep_of != (0, 0)

    def mask(self, saliency: Tensor) -> Tensor:
        """Ones where N of M stay (``fixed`` only). A shorter last run keeps its share, rounded up."""
        return keep_n_of_m(saliency, *self.keep_of)


#: the patterns that take no number; ``pattern`` also reads blocks (4x1), N:M (2:4) and groups:G
NAMES = ("weight", "row", "column", "kernel")
_BLOCK, _N_OF_M, _GROUPS = (
    re.compile(r"(\d+)x(\d+)$"),
    re.compile(r"(\d+):(\d+)$"),
    re.compile(r"groups:(\d+)$"),
)


def pattern(name: str) -> Pattern:
    """``weight``: each for itself. ``row``: all weights of an output; ``column``: of an input; ``kernel``: of a
    pair of both. ``RxC``: blocks of R outputs by C inputs at one kernel position (4x1 is what the sparse kernels
    of CPU runtimes read). ``N:M``: of M consecutive inputs of an output N stay (2:4: Mishra et al. 2021,
    Accelerating sparse deep neural networks). ``groups:G``: blocks of a G-th of the outputs by a G-th of the
    inputs; where only the blocks on the diagonal stay it is a convolution of G groups.

    >>> pattern("2:4").mask(torch.tensor([[4.0, 1, 3, 2, 1, 2]]))
    tensor([[1., 0., 1., 0., 0., 1.]])

    Raises UserError for any other name.
    """
    if name == "weight":
        return Pattern(name, lambda saliency: saliency)
    if name in ("row", "column", "kernel"):
        over = {"row": (1, 2), "column": (0, 2), "kernel": (2,)}[name]
        return Pattern(name, lambda saliency: _as_before(_shared(matrix_of(saliency), over), saliency))
    if found := _BLOCK.match(name):
        rows, columns = _positive(name, found)
        return Pattern(name, lambda saliency: blocks(saliency, rows, columns))
    if found := _GROUPS.match(name):
        (parts,) = _positive(name, found)
        return Pattern(name, lambda saliency: _in_parts(saliency, parts))
    if found := _N_OF_M.match(name):
        kept, run = _positive(name, found)
        if kept < run:
            return Pattern(name, lambda saliency: saliency, (kept, run))
    guess = nearest(name, (*NAMES, "4x1", "2:4", "groups:2"))
    raise UserError(
        f"unknown pattern {name!r}",
        value=name,
        mend=(f"did you mean {guess!r}? " if guess else "")
        + f"use one of {', '.join(NAMES)}, blocks like 4x1, N:M like 2:4 (N < M), or groups:2",
    )


def _positive(name: str, found: re.Match[str]) -> list[int]:
    numbers = [int(text) for text in found.groups()]
    if min(numbers) < 1:
        raise UserError(f"the pattern {name!r} has a size of zero", value=name, mend="give sizes of 1 or more")
    return numbers


def matrix_of(tensor: Tensor) -> Tensor:
    """[outputs, inputs, *kernel] -> [outputs, inputs, positions]"""
    return tensor.reshape(tensor.shape[0], tensor.shape[1], -1)


def _as_before(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(like.shape)


def _shared(matrix: Tensor, over: tuple[int, ...]) -> Tensor:
    """The mean over some dimensions, at every place."""
    return matrix.mean(over, keepdim=True).expand_as(matrix)


def blocks(saliency: Tensor, rows: int, columns: int) -> Tensor:
    """The mean of each block of ``rows`` x ``columns`` at one kernel position; blocks at the edge are smaller."""
    values = matrix_of(saliency)
    for dim, size in ((0, rows), (1, columns)):
        values = torch.cat([_shared(part, (dim,)) for part in torch.split(values, size, dim)], dim)
    return _as_before(values, saliency)


def _in_parts(saliency: Tensor, parts: int) -> Tensor:
    """Blocks of ceil(outputs / parts) x ceil(inputs / parts), over all kernel positions."""
    values = _shared(matrix_of(saliency), (2,))
    rows, columns = (-(-size // parts) for size in values.shape[:2])
    return blocks(values, rows, columns).reshape(saliency.shape)


def keep_n_of_m(saliency: Tensor, kept: int, run: int) -> Tensor:
    """Ones at the ``kept`` largest of each ``run`` consecutive inputs (ties: the first), zeros elsewhere."""
    values = matrix_of(saliency).transpose(1, 2)  # [outputs, positions, inputs]
    masks = []
    for part in torch.split(values, run, 2):
        count = min(part.shape[2], -(-kept * part.shape[2] // run))
        order = part.argsort(dim=2, descending=True, stable=True)[..., :count]
        masks.append(torch.zeros_like(part).scatter_(2, order, 1.0))
    return _as_before(torch.cat(masks, 2).transpose(1, 2), saliency)
