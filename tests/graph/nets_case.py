"""What a test network is, and what must come of it. The networks themselves are in the other nets_*.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Sizes = int | tuple[int, ...]
Footprint = list[list[int]]


@dataclass(frozen=True)
class Case:
    """A network that must be cut. A dimension is written ``tensor.dim``: ``conv.weight.0`` are conv's rows.

    ``units``: dimension -> how many units the groups have that hold it, one number per group.
    ``among``: dimension -> one of those numbers, where another group may hold it as well (heads, head dims).
    ``footprint``: dimension -> for each unit of one of its groups, which indices go with it.
    ``shrinks``: what must get smaller; everything named above where it is not given.
    ``stays``: what must not.
    ``statistics``: whether the cut changes a mean, a variance or a softmax over channels; None: either is right.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    units: Mapping[str, Sizes] = field(default_factory=dict)
    among: Mapping[str, int] = field(default_factory=dict)
    footprint: Mapping[str, Footprint] = field(default_factory=dict)
    shrinks: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    statistics: bool | None = False

    @property
    def must_shrink(self) -> tuple[str, ...]:
        return self.shrinks or (*self.units, *self.among, *self.footprint)


@dataclass(frozen=True)
class Hostile:
    """A network of which ``stays`` must not be cut, and the refusal must point at the line with ``line`` in it.

    ``operator``: what the refusal must name, where that is not a matter of taste.
    ``line``: empty where only PyTorch's own layers run, so that no line of the user is to blame.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    stays: tuple[str, ...]
    line: str
    operator: str = ""


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def tokens(*shape: int, count: int = 11) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, count, shape)


IMAGE = normal(2, 3, 6, 6)
ROWS = normal(4, 3)
#: [batch, tokens, features]
SEQUENCE = normal(2, 6, 4)
