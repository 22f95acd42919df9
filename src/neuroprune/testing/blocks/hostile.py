"""Blocks of which some dimension must not be cut, or whose sizes nobody can follow. Refusing is right there.

They keep the shape of their input, an image or a sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroprune.testing.blocks._base import Block, Function, Menu, Past, Site, on

HOSTILE: Menu = []


def channels_first(x: Tensor) -> Tensor:
    """[N, L, C] -> [N, C, L]; an image stays."""
    return x.transpose(1, 2) if x.dim() == 3 else x


class _Sized(Block):
    """Views the channels as what ``size`` says there are: the whole width, found in an obscure way."""

    def __init__(self, site: Site, size: Callable[[Any], int]) -> None:
        super().__init__()
        self.size, width = size, site.channels
        self.doubled, self.text, self.number = 2 * width, str(width), np.int64(width)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y = channels_first(x)
        return channels_first(y.reshape(y.shape[0], self.size(self), -1).tanh().reshape(y.shape))


@on(HOSTILE)
def literal(site: Site) -> Block:
    """A size in a closure, as a number in the code would be."""
    width = site.channels
    return _Sized(site, lambda _: width)


@on(HOSTILE)
def quotient(site: Site) -> Block:
    """int(a / b): the quotient is a float, which knows nothing of where it is from."""
    return _Sized(site, lambda block: int(block.doubled / 2))


@on(HOSTILE)
def text(site: Site) -> Block:
    return _Sized(site, lambda block: int(block.text))


@on(HOSTILE)
def numpy_integer(site: Site) -> Block:
    return _Sized(site, lambda block: int(np.prod([block.number, 1])))


@on(HOSTILE)
def table(site: Site) -> Block:
    """A function for the one width that there is."""
    functions = {site.channels: torch.tanh}

    def look_up(x: Tensor) -> Tensor:
        y = channels_first(x)
        return channels_first(functions[y.shape[1]](y))

    return Function(look_up)


@on(HOSTILE)
def literal_split(site: Site) -> Block:
    sizes = [1, site.channels - 1]

    def split(x: Tensor) -> Tensor:
        a, b = torch.split(channels_first(x), sizes, 1)
        return channels_first(torch.cat([b.relu(), a], 1))

    return Function(split)


@on(HOSTILE)
def literal_slice(site: Site) -> Block:
    bound = site.channels // 2

    def join(x: Tensor) -> Tensor:
        y = channels_first(x)
        return channels_first(torch.cat([y[:, bound:].sigmoid(), y[:, :bound]], 1))

    return Function(join)


@on(HOSTILE)
def times_its_width(site: Site) -> Block:
    return Function(lambda x: x * (channels_first(x).shape[1] * 0.1))


@on(HOSTILE)
def numbered(site: Site) -> Block:
    """Multiplies channel i by a number that depends on i."""

    def number(x: Tensor) -> Tensor:
        y = channels_first(x)
        places = torch.arange(y.shape[1], dtype=x.dtype)
        return channels_first(y * places.view(-1, *[1] * (y.dim() - 2)))

    return Function(number)


@on(HOSTILE)
def cumulated(site: Site) -> Block:
    return Function(lambda x: channels_first(channels_first(x).cumsum(1)))


@on(HOSTILE)
def ordered(site: Site) -> Block:
    return Function(lambda x: channels_first(channels_first(x).sort(dim=1).values))


@on(HOSTILE)
class Picked(Block):
    """Channels reordered by a buffer of their numbers."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(site.channels))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return channels_first(channels_first(x).index_select(1, self.get_buffer("order")))


@on(HOSTILE)
def smoothed(site: Site) -> Block:
    """A mean over neighbouring channels."""

    def smooth(x: Tensor) -> Tensor:
        y = channels_first(x)
        rows = y.flatten(2).transpose(1, 2)
        return channels_first(F.avg_pool1d(rows, 3, 1, 1).transpose(1, 2).reshape(y.shape))

    return Function(smooth)


@on(HOSTILE)
def every_second(site: Site) -> Block:
    """Strides over the channels, twice each."""

    def stride(x: Tensor) -> Tensor:
        y = channels_first(x)
        return channels_first(y[:, ::2].repeat_interleave(2, 1)[:, : y.shape[1]])

    return Function(stride)


@on(HOSTILE)
def unknown(site: Site) -> Block:
    return Function(lambda x: mystery()(x))


@functools.cache
def mystery() -> Callable[[Tensor], Tensor]:
    """An operator that nobody can know: it swaps halves. Registered when it is first needed, and only then."""

    def halves(x: Tensor) -> Tensor:
        return x.roll(x.shape[1] // 2, 1) * 2

    halves.__annotations__ = {"x": Tensor, "return": Tensor}  # the schema is read from types, not from text
    operator = torch.library.custom_op("neuroprune_testing::mystery", halves, mutates_args=())
    operator.register_fake(lambda x: torch.empty_like(x))
    return operator
