"""Indexing, masks, lookups, and operators that look at places instead of channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, SEQUENCE, Case, normal, tokens
from torch import Tensor, nn


class Places(nn.Module):
    """Linear -> ``look`` at [batch, 6, 8] with an index or mask buffer over the six places -> linear."""

    def __init__(self, buffer: Tensor, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.out, self.look = nn.Linear(4, 8), nn.Linear(8, 2), look
        self.register_buffer("buffer", buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.look(self.embed(x), self.buffer))


class Embedded(nn.Module):
    """Word, position and type embeddings, summed; the padding row is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8, padding_idx=0), nn.Embedding(5, 8)
        self.register_buffer("ids", torch.arange(5).expand(1, -1))
        self.out = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.words(ids) + self.places(self.ids[:, : ids.shape[1]]))


class Bag(nn.Module):
    """A bag of words: the mean over the words of a row."""

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(11, 8, mode=mode), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.bag(ids))


class Factorised(nn.Module):
    """ALBERT: a small embedding made wide, the same matrix transposed at the output."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide, self.back = nn.Embedding(11, 6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.back(self.wide(self.words(ids)).relu()), self.words.weight)


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(11, 8)), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(F.one_hot(ids, 11).to(self.weight.dtype) @ self.weight)


class Bucketed(nn.Module):
    """Numbers sorted into buckets, each bucket a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(4, 8), nn.Linear(8, 2)
        self.register_buffer("edges", torch.tensor([-0.5, 0.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(torch.bucketize(x, self.edges)).sum(1))


class MaskedChannels(nn.Module):
    """A boolean buffer picks channels: it has one entry per channel and shrinks with them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(5, 2, 1)
        self.register_buffer("chosen", torch.tensor([1, 1, 0, 1, 0, 1, 0, 1]).bool())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x)[:, self.chosen])


class WhereChannels(nn.Module):
    """A mask per channel chooses between two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("chosen", torch.tensor([1, 1, 0, 1, 0, 1, 0, 1]).bool())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.where(self.chosen[:, None, None], self.a(x), self.b(x)))


class WherePlaces(nn.Module):
    """One branch where the input is positive, the other elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.out(torch.where(x.amax(1, keepdim=True) > 0, a, b).masked_fill(x[:, :1] > 1, 0.0))


class Spectral(nn.Module):
    """GFNet: a complex filter [height, width, channels] in the frequencies of space."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
        self.filter = nn.Parameter(torch.randn(6, 4, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        frequencies = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
        x = torch.fft.irfft2(frequencies * torch.view_as_complex(self.filter), s=(6, 6), dim=(1, 2), norm="ortho")
        return self.out(x.mean((1, 2)))


class RealSpectral(nn.Module):
    """FNet: the real part of a Fourier transform over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.fft.fft(self.embed(x), dim=1).real)


class Decided(nn.Module):
    """Outputs that are numbers of classes: argmax, topk, and boxes picked by them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.scores, self.boxes = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.hidden(x).relu()
        scores = self.scores(x).sigmoid()
        best, classes = scores.max(-1)
        _, places = best.topk(3, dim=1)
        boxes = self.boxes(x).gather(1, places[..., None].expand(-1, -1, 4))
        return classes, boxes, scores.argmax(-1)


class Distances(nn.Module):
    """Prototypes at a distance: squared differences summed over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.centres = nn.Linear(4, 8), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return -(self.embed(x)[:, :, None] - self.centres).pow(2).sum(-1)


class Scattered(nn.Module):
    """A graph layer: messages along constant edges are added up at their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.own, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]]))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        messages = self.message(x)[:, source]
        return self.out(self.own(x).index_add(1, target, messages).relu())


class Pieces(nn.Module):
    """Pointwise operators for which zero is not a neutral number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 2)
        self.scale, self.power = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = torch.cosh(a) / self.scale + torch.logaddexp(a, b) + self.scale.log()
        y = torch.lerp(y, b.exp(), self.power) + torch.addcmul(a, a, b, value=0.5).clamp(-1, 2)
        return self.out(y + torch.maximum(a, b) - torch.hypot(a, b).rsqrt().clamp(max=2))


PERMUTATION = torch.tensor([3, 1, 5, 0, 2, 4])
MASK = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
TOKENS = {"embed.weight.0": 8, "out.weight.1": 8}


def places(buffer: Tensor, look: Callable[[Tensor, Tensor], Tensor]) -> Case:
    return Case(lambda: Places(buffer, look), SEQUENCE, TOKENS)


def looked(look: Callable[[Tensor], Tensor]) -> Case:
    return places(MASK, lambda x, _: look(x))


INDEX = {
    "index_of_places": places(PERMUTATION, lambda x, i: x[:, i]),
    "index_select_of_places": places(PERMUTATION, lambda x, i: x.index_select(1, i)),
    "gather_of_places": places(
        PERMUTATION, lambda x, i: x.gather(1, i[None, :, None].expand(x.shape[0], -1, x.shape[2]))),
    "pairs_of_indices": places(PERMUTATION, lambda x, i: x[torch.arange(x.shape[0])[:, None], i[None, :3]]),
    "literal_list": looked(lambda x: x[:, [0, 2, 5]]),
    "mask_of_places": places(MASK, lambda x, m: x[:, m]),
    "filled_where_masked": places(MASK, lambda x, m: x.masked_fill(m[:, None], -1.0)),
    "masked_places": places(MASK, lambda x, m: torch.where(m[None, :, None], x, x.new_zeros(()))),
    "cumsum_of_places": looked(lambda x: x.cumsum(1)),
    "sorted_places": looked(lambda x: x.sort(dim=1, descending=True).values),
    "softmax_of_places": looked(lambda x: x.softmax(1) * x),
    "written_places": looked(lambda x: x.clone().index_fill_(1, torch.tensor([1, 4]), 0.5)),
    "assigned_places": places(PERMUTATION, lambda x, i: torch.zeros_like(x).index_copy(1, i, x)),
    "interpolated_places": looked(lambda x: F.interpolate(x.transpose(1, 2), 9, mode="linear").transpose(1, 2)),
    "lower_triangle": looked(lambda x: (torch.ones(6, 6, dtype=x.dtype).tril() @ x)),
    "embedding": Case(
        Embedded, tokens(2, 5), {"words.weight.1": 8, "places.weight.1": 8, "out.weight.1": 8},
        stays=("words.weight.0", "places.weight.0"),
    ),
    "embedding_bag": Case(Bag, tokens(2, 5), {"bag.weight.1": 8, "out.weight.1": 8}),
    "embedding_bag_max": Case(lambda: Bag("max"), tokens(2, 5), {"bag.weight.1": 8, "out.weight.1": 8}),
    "factorised_embedding": Case(
        Factorised, tokens(2, 5),
        {"words.weight.1": 6, "back.weight.0": 6, "wide.weight.1": 6, "wide.weight.0": 8},
    ),
    "one_hot": Case(OneHot, tokens(2, 5), {"weight.1": 8, "out.weight.1": 8}),
    "bucketize": Case(Bucketed, normal(2, 5), {"table.weight.1": 8, "out.weight.1": 8}),
    # channels that nobody picked reach nothing; whether they count as free is open, the five picked ones go
    "where_of_channels": Case(
        WhereChannels, IMAGE, {"a.weight.0": 8, "b.weight.0": 8, "chosen.0": 8, "out.weight.1": 8}),
    "where_of_places": Case(WherePlaces, IMAGE, {"a.weight.0": 8, "b.weight.0": 8, "out.weight.1": 8}),
    "fourier_filter": Case(Spectral, IMAGE, {"embed.weight.0": 8, "filter.2": 8, "out.weight.1": 8}),
    "fourier_tokens": Case(RealSpectral, SEQUENCE, TOKENS),
    "decisions": Case(
        Decided, SEQUENCE, {"hidden.weight.0": 8, "scores.weight.1": 8, "boxes.weight.1": 8},
        stays=("scores.weight.0", "boxes.weight.0"),
    ),
    "distances": Case(Distances, SEQUENCE, {"embed.weight.0": 8, "centres.1": 8}),
    "scattered_messages": Case(
        Scattered, SEQUENCE, {"message.weight.0": 8, "own.weight.0": 8, "out.weight.1": 8}),
    # a scale of zero divides by zero: only masking shows that this is exact
    "pointwise_of_every_kind": Case(
        Pieces, normal(4, 3), {"a.weight.0": 8, "b.weight.0": 8, "scale.0": 8, "power.0": 8}, statistics=None),
}  # fmt: skip
