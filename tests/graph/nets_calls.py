"""Ways to call a network and to answer: several inputs, keywords, dicts, dataclasses, flags, several calls."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from graph.nets_case import SEQUENCE, Case
from torch import Tensor, nn


@dataclass
class Batch:
    """What a network may take: a dataclass that PyTorch knows nothing of."""

    image: Tensor
    rows: Tensor
    scale: float = 2.0


@dataclass
class Answer:
    scores: Tensor
    hidden: Tensor | None = None
    note: str = ""


class Pair(NamedTuple):
    scores: Tensor
    boxes: Tensor


class TwoInputs(nn.Module):
    """An image and rows, fused; the hidden image is an output as well, so ``seen`` must keep its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.image = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 8, 1)
        self.rows, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def fuse(self, image: Tensor, rows: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        seen = self.seen(image)
        return self.out((self.image(seen).mean((2, 3)) + self.rows(rows) * scale).relu()), seen

    def forward(self, image: Tensor, rows: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return self.fuse(image, rows, scale)


class TakesDict(TwoInputs):
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        scores, seen = self.fuse(batch["image"], batch["more"]["rows"])
        return OrderedDict(scores=scores, nested=[{"seen": seen}, None, "text"])


class TakesDataclass(TwoInputs):
    def forward(self, batch: Batch) -> Answer:
        scores, seen = self.fuse(batch.image, batch.rows, batch.scale)
        return Answer(scores, seen)


class TakesList(TwoInputs):
    def forward(self, images: list[Tensor], rows: tuple[Tensor, ...]) -> Pair:
        found = [self.fuse(image, row) for image, row in zip(images, rows, strict=True)]
        return Pair(torch.stack([scores for scores, _ in found]), torch.cat([seen for _, seen in found]))


class Optional(TwoInputs):
    def forward(self, image: Tensor, rows: Tensor | None = None, *, gate: Tensor | None = None) -> Answer:
        if rows is None:
            raise ValueError("rows are needed")
        scores, seen = self.fuse(image, rows)
        return Answer(scores if gate is None else scores * gate, seen)


class TwoWays(nn.Module):
    """A flag chooses the branch: one call shows half of the network, two calls all of it.

    ``wide`` is summed with ``long`` in the second call only, so their units are the same only if both calls count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.long = nn.Linear(4, 8), nn.Linear(4, 8)
        self.deep, self.out = nn.Linear(8, 6), nn.Linear(8, 2)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor, deep: bool = False) -> Tensor:
        if deep:
            return self.last(self.deep(self.wide(x) + self.long(x)).relu())
        return self.out(self.wide(x).relu())


class AnySize(nn.Module):
    """Images of several sizes are the calls; nothing depends on which."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


class Modes(nn.Module):
    """An encoder and a decoder chosen by name, each a call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.inner = nn.Linear(4, 6), nn.Linear(6, 5)
        self.decoder, self.back = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor, mode: str) -> Tensor:
        if mode == "encode":
            return self.inner(self.encoder(x).relu())
        return self.back(self.decoder(x).relu())


def image() -> Tensor:
    return torch.randn(2, 3, 4, 4)


def rows() -> Tensor:
    return torch.randn(2, 4)


FUSED = {"image.weight.0": 8, "rows.weight.0": 8, "out.weight.1": 8}
SEEN = ("seen.weight.0", "image.weight.1", "out.weight.0")
BOTH_WAYS = {
    "wide.weight.0": 8, "long.weight.0": 8, "deep.weight.1": 8, "out.weight.1": 8,
    "deep.weight.0": 6, "last.weight.1": 6,
}  # fmt: skip


def fused(make: type[nn.Module], inputs: Any) -> Case:
    return Case(make, inputs, FUSED, stays=SEEN)


CALLS = {
    "positional": fused(TwoInputs, lambda: (image(), rows())),
    "positional_with_a_number": fused(TwoInputs, lambda: (image(), rows(), 0.5)),
    "keywords": fused(TwoInputs, lambda: {"rows": rows(), "image": image(), "scale": 3.0}),
    "dict": fused(TakesDict, lambda: ({"image": image(), "more": {"rows": rows()}},)),
    "dataclass": fused(TakesDataclass, lambda: (Batch(image(), rows()),)),
    "lists": fused(TakesList, lambda: ([image(), image()], (rows(), rows()))),
    "optional_absent": fused(Optional, lambda: {"image": image(), "rows": rows(), "gate": None}),
    "optional_given": fused(Optional, lambda: {"image": image(), "rows": rows(), "gate": torch.rand(2)}),
    "first_call_alone": Case(
        TwoWays, SEQUENCE, {"wide.weight.0": 8, "out.weight.1": 8}, stays=("deep.weight.0", "long.weight.0")),
    "two_calls": Case(TwoWays, lambda: [(torch.randn(2, 4),), (torch.randn(3, 4), True)], BOTH_WAYS),
    "two_calls_by_keyword": Case(
        TwoWays, lambda: [torch.randn(2, 4), {"x": torch.randn(3, 4), "deep": True}], BOTH_WAYS),
    "two_sizes": Case(
        AnySize, lambda: [torch.randn(1, 3, 5, 5), torch.randn(2, 3, 7, 6)],
        {"conv.weight.0": 8, "out.weight.1": 8},
    ),
    "two_modes": Case(
        Modes, lambda: [(torch.randn(2, 4), "encode"), {"x": torch.randn(3, 5), "mode": "decode"}],
        {"encoder.weight.0": 6, "inner.weight.1": 6, "decoder.weight.0": 7, "back.weight.1": 7},
        stays=("inner.weight.0", "decoder.weight.1"),
    ),
}  # fmt: skip
