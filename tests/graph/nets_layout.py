"""Data movement: split, join, slice, shuffle, repeat, in every axis and with every kind of bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, SEQUENCE, Case, normal
from torch import Tensor, nn


class Moved(nn.Module):
    """Convolution to ``width`` channels -> ``move`` -> convolution from ``after`` channels."""

    def __init__(self, move: Callable[[Tensor], Tensor], width: int = 8, after: int = 8) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, width, 1), nn.Conv2d(after, 2, 1)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.move(self.conv(x)))


class Parts(nn.Module):
    """Convolution -> two parts by ``cut`` -> one convolution each -> sum."""

    def __init__(self, cut: Callable[[Tensor], tuple[Tensor, Tensor]], a: int = 4, b: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.a, self.b, self.cut = nn.Conv2d(a, 2, 1), nn.Conv2d(b, 2, 1), cut

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cut(self.conv(x))
        return self.a(a) + self.b(b)


class ByAttribute(nn.Module):
    """Unequal pieces, their sizes in a list on the module; ``how`` they are taken."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.sizes, self.bound, self.how = [5, 3], 5, how
        self.conv, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(5, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = getattr(self, self.how)(self.conv(x))
        return self.a(a) + self.b(b)

    def by_split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.split(self.sizes, dim=1)

    def by_slice(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.bound], x[:, self.bound :]

    def by_negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : -self.sizes[1]], x[:, -self.sizes[1] :]

    def by_narrow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.narrow(1, 0, self.bound), x.narrow(1, self.bound, self.sizes[1])

    def by_tensor_split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.tensor_split((self.bound,), dim=1)

    def by_difference(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.split(x, [self.bound, x.shape[1] - self.bound], dim=1)


class Partial(nn.Module):
    """FasterNet: a convolution on the first channels only, joined with the untouched rest."""

    def __init__(self) -> None:
        super().__init__()
        self.touched, self.rest = 2, 6
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv, self.out = nn.Conv2d(self.touched, self.touched, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = torch.split(x, [self.touched, self.rest], dim=1)
        return self.out(torch.cat([self.conv(a), b], dim=1) + x)


class Growing(nn.Module):
    """DenseNet: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 3 * i, 3, 3, padding=1) for i in range(3))
        self.stem, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(13, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(F.relu(layer(torch.cat(found, 1))))
        return self.out(torch.cat(found, 1))


class Residues(nn.Module):
    """Res2Net: chunks of one convolution, each through a convolution of its own, with carry."""

    def __init__(self, width: int = 3, scale: int = 4) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.conv, self.out = nn.Conv2d(3, width * scale, 1), nn.Conv2d(width * scale, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.conv(x), self.width, 1)
        found, carried = [], parts[0]
        for index, conv in enumerate(self.convs):
            carried = conv(carried if index == 0 else carried + parts[index])
            found.append(carried)
        return self.out(torch.cat([*found, parts[self.scale - 1]], 1))


class ShuffleUnit(nn.Module):
    """ShuffleNet V2: half of the channels pass, the others work, then both interleave; twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, dim=1)
            x = torch.cat((a, branch(b)), dim=1)
            n, c, h, w = x.size()
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.out(x)


class ShuffleByAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = 4
        self.conv, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        return self.out(x.reshape(n, self.groups, c // self.groups, h, w).swapaxes(1, 2).flatten(1, 2))


class Stacked(nn.Module):
    """Branches stacked in a new axis and reduced over it, unbound again, joined in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([self.a(x), self.b(x).relu()], dim=-1)
        a, b = stacked.unbind(-1)
        both = torch.cat([a, b], dim=0).unflatten(0, (2, -1))
        return self.out(torch.cat([stacked.amax(-1), both.sum(0)], dim=1))


class StackedChannels(nn.Module):
    """Stacked behind the channels and flattened: a and b interleave."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.stack([self.a(x), self.b(x)], dim=2).flatten(1, 2))


class Outer(nn.Module):
    """The outer product of two feature vectors, flattened: one dimension, two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(4, 4), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x)[..., :, None] * self.b(x)[..., None, :]).flatten(-2))


class EinsumOuter(Outer):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.einsum("nli,nlj->nlij", self.a(x), self.b(x)).flatten(-2))


class EinsumImage(nn.Module):
    """'nchw,cd->ndhw', and two weights in one einsum with an ellipsis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(4, 2, 1)
        self.mix, self.left, self.right = (nn.Parameter(torch.randn(s)) for s in ((6, 8), (8, 5), (5, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("nchw,cd->ndhw", self.conv(x), self.mix)
        x = torch.einsum("...d,de,ef->...f", x.permute(0, 2, 3, 1), self.left, self.right)
        return self.out(x.movedim(-1, 1))


class Crossed(nn.Module):
    """Axis games on a sequence: split over tokens, swap, repeat along the batch, roll the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        early, late = x.split([2, 4], dim=1)
        x = torch.cat([late, early.flip(1)], dim=1).roll(2, dims=1)
        x = x.transpose(0, 1).repeat_interleave(2, dim=0).swapdims(0, 1)
        return self.out(x.tile(2, 1, 1)[: x.shape[0], ::2])


class Repeated(nn.Module):
    """Each channel twice in a row, and all channels twice over; ``times`` is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 2
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.out(torch.cat([x.repeat_interleave(self.times, dim=1), x.repeat(1, self.times, 1, 1)], dim=1))


def even_and_odd(x: Tensor) -> Tensor:
    return x[:, ::2] * x[:, 1::2].sigmoid()


def halves_of_shape(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.size(1) // 2
    return x[:, :half], x[:, half:]


BOTH = {"conv.weight.0": (3, 5), "a.weight.1": 5, "b.weight.1": 3}
HALVES = {"conv.weight.0": (4, 4), "a.weight.1": 4, "b.weight.1": 4}
SAME = {"conv.weight.0": 8, "out.weight.1": 8}


def moved(move: Callable[[Tensor], Tensor], units: dict[str, int], width: int = 8, after: int = 8) -> Case:
    return Case(lambda: Moved(move, width, after), IMAGE, units)


LAYOUT = {
    "split_by_list": Case(lambda: ByAttribute("by_split"), IMAGE, BOTH),
    "slice_by_attribute": Case(lambda: ByAttribute("by_slice"), IMAGE, BOTH),
    "slice_by_negative_attribute": Case(lambda: ByAttribute("by_negative"), IMAGE, BOTH),
    "narrow": Case(lambda: ByAttribute("by_narrow"), IMAGE, BOTH),
    "tensor_split": Case(lambda: ByAttribute("by_tensor_split"), IMAGE, BOTH),
    "split_by_difference": Case(lambda: ByAttribute("by_difference"), IMAGE, BOTH),
    "chunk_apart": Case(lambda: Parts(lambda x: x.chunk(2, dim=1)), IMAGE, HALVES),
    "halves_of_shape": Case(lambda: Parts(halves_of_shape), IMAGE, HALVES),
    # the literal 4 counts what stays of the first half; behind it everything may go
    "slice_by_literal": Case(
        lambda: Parts(lambda x: (x[:, :4], x[:, 4:])), IMAGE,
        among={"conv.weight.0": 4, "b.weight.1": 4}, stays=("a.weight.1",),
    ),
    "slice_by_negative_literal": Case(
        lambda: Parts(lambda x: (x[:, :-4], x[:, -4:])), IMAGE,
        among={"conv.weight.0": 4, "a.weight.1": 4}, stays=("b.weight.1",),
    ),
    "chunk_gated": moved(
        lambda x: torch.mul(*x.chunk(2, dim=1)), {"conv.weight.0": 4, "out.weight.1": 4}, 8, 4),
    "unflatten_gated": Case(
        lambda: Moved(lambda x: x.unflatten(1, (2, -1)).prod(1), 8, 4), IMAGE,
        among={"conv.weight.0": 4, "out.weight.1": 4},
    ),
    "even_and_odd": Case(
        lambda: Moved(even_and_odd, 8, 4), IMAGE, {"conv.weight.0": 4},
        footprint={"conv.weight.0": [[0, 1], [2, 3], [4, 5], [6, 7]], "out.weight.1": [[0], [1], [2], [3]]},
    ),
    "maxout": Case(
        lambda: Moved(lambda x: x.view(x.shape[0], -1, 2, *x.shape[2:]).amax(2), 8, 4), IMAGE,
        among={"out.weight.1": 4}, footprint={"conv.weight.0": [[0, 1], [2, 3], [4, 5], [6, 7]]},
    ),
    "native_shuffle": Case(
        lambda: Moved(nn.ChannelShuffle(2)), IMAGE, among={"conv.weight.0": 4, "out.weight.1": 4},
        footprint={"conv.weight.0": [[0, 4], [1, 5], [2, 6], [3, 7]]},
    ),
    "shuffle_by_attribute": Case(
        ShuffleByAttribute, IMAGE, shrinks=("conv.weight.0", "out.weight.1")),
    "channels_last_round_trip": moved(lambda x: x.movedim(1, -1).tanh().permute(0, 3, 1, 2), SAME),
    "flip_of_space": moved(lambda x: x.flip((2, 3)) + x.rot90(1, (2, 3)), SAME),
    "roll_of_space": moved(lambda x: x.roll((1, -2), (2, 3)), SAME),
    "padded_space": moved(lambda x: F.pad(x, (1, 2, 0, 1), value=0.5)[..., 1:, :-1], SAME),
    "expanded": moved(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:]) + x, SAME),
    "doubled": Case(
        lambda: Moved(lambda x: torch.cat([x, x.relu(), -x], 1), 4, 12), IMAGE, {"conv.weight.0": 4},
        footprint={"out.weight.1": [[i, i + 4, i + 8] for i in range(4)]},
    ),
    "repeated": Case(
        Repeated, IMAGE, {"conv.weight.0": 6},
        footprint={"out.weight.1": [[2 * i, 2 * i + 1, 12 + i, 18 + i] for i in range(6)]},
    ),
    # the untouched rest is tied to the stream, the touched part to the convolution's own rows
    "partial": Case(Partial, IMAGE, {"stem.weight.0": (2, 6), "conv.weight.0": 2, "conv.weight.1": 2}),
    "growing_concat": Case(
        Growing, IMAGE, {"stem.weight.0": 4, "layers.0.weight.0": 3, "layers.2.weight.1": (3, 3, 4)}),
    "residues": Case(
        Residues, IMAGE, {"convs.0.weight.0": 3, "convs.2.weight.0": 3},
        shrinks=("conv.weight.0", "out.weight.1"),
    ),
    "stacked": Case(
        Stacked, IMAGE, {"a.weight.0": 6, "b.weight.0": 6},
        footprint={"out.weight.1": [[i, i + 6] for i in range(6)]},
    ),
    "stacked_channels": Case(
        StackedChannels, IMAGE, {"a.weight.0": 6, "b.weight.0": 6},
        footprint={"out.weight.1": [[2 * i, 2 * i + 1] for i in range(6)]},
    ),
    "outer_product": Case(
        Outer, SEQUENCE, {"a.weight.0": 6, "b.weight.0": 4, "out.weight.1": (4, 6)},
        shrinks=("a.weight.0", "out.weight.1"),  # two of six rows are a third of the columns: b need not go too
    ),
    "einsum_outer_product": Case(
        EinsumOuter, SEQUENCE, {"a.weight.0": 6, "b.weight.0": 4, "out.weight.1": (4, 6)},
        shrinks=("a.weight.0", "out.weight.1"),  # two of six rows are a third of the columns: b need not go too
    ),
    "einsum_image": Case(
        EinsumImage, IMAGE,
        {"conv.weight.0": 6, "mix.0": 6, "mix.1": 8, "left.0": 8, "left.1": 5, "right.0": 5, "right.1": 4,
         "out.weight.1": 4},
    ),
    "axes_of_a_sequence": Case(Crossed, normal(2, 6, 4), {"embed.weight.0": 8, "out.weight.1": 8}),
}  # fmt: skip
