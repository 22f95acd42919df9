"""What a block of a random network is, where it is put, and the menus that blocks are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

#: every image of a random network is SIDE x SIDE, every sequence has PLACES tokens
SIDE = 5
PLACES = SIDE * SIDE

Past = Sequence[Tensor]


@dataclass(frozen=True)
class Site:
    """Where a block is put. ``shapes``: of all results so far, the last is its input; ``choice``: to choose by.

    Which earlier result a block looks back at is fixed here, by index: a choice by shape in the forward pass
    would choose another one after a cut.
    """

    shapes: tuple[tuple[int, ...], ...]
    choice: int

    @property
    def channels(self) -> int:
        """Of an image [N, C, H, W] or of a sequence [N, L, C]."""
        shape = self.shapes[-1]
        return shape[1] if len(shape) == 4 else shape[2]

    @property
    def width(self) -> int:
        """The number of channels of a block that may choose it: 3 to 8."""
        return 3 + self.choice % 6

    @property
    def even(self) -> int:
        """2 where the channels can be halved, else 1."""
        return 2 if self.channels % 2 == 0 else 1

    @property
    def twin(self) -> int:
        """Index of the first result of the same shape (the input itself, if there is no other)."""
        return next(i for i, shape in enumerate(self.shapes) if shape == self.shapes[-1])

    @property
    def side(self) -> int:
        """Index of the first result of the same kind."""
        return next(i for i, shape in enumerate(self.shapes) if len(shape) == len(self.shapes[-1]))


class Block(nn.Module):
    """Maps the last of ``past`` to the next result; it may look at any of ``past``."""

    def forward(self, x: Tensor, past: Past) -> Tensor:
        raise NotImplementedError

    def __call__(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = super().__call__(x, past)
        return found


class Through(Block):
    """Layers, one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Function(Block):
    """A function of the input alone."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.function(x)


Maker = Callable[[Site], Block]
M = TypeVar("M", bound=Maker)
Menu = list[Maker]


def on(menu: Menu) -> Callable[[M], M]:
    """Decorator: put a block (its class, or a function that makes one) on a menu."""

    def add(maker: M) -> M:
        menu.append(maker)
        return maker

    return add
