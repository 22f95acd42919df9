"""Networks for operators that no other network here calls with channels: each shows one rule or size at work.

They are cut by tests/graph/test_mutations.py alone, with the right rule and with a wrong one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, ROWS, SEQUENCE
from graph.nets_hostile import Sandwich, unknown
from torch import Tensor, nn

from neuroprune.pruning import exported

ORDER = [7, 3, 1, 5, 0, 2, 6, 4]
Net = tuple[Callable[[], nn.Module], Callable[[], Any]]


class StepsApart(nn.Module):
    """Even and odd channels never meet again, so only the step itself ties neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.even, self.odd = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.even(x[:, ::2]) + self.odd(x[:, 1::2])


def shuffled(_: Any, x: Tensor) -> Tensor:
    return F.native_channel_shuffle(x, 2)


class Inferring(nn.Module):
    """In inference mode PyTorch does not take ``linear`` apart: we do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embed(x).relu())


class Triangular(nn.Module):
    """A triangular weight between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.free, self.out = nn.Linear(3, 8), nn.Linear(3, 6), nn.Linear(8, 2)
        self.weight, self.end = nn.Parameter(torch.randn(8, 8)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(self.embed(x), self.weight.tril())) + self.end(self.free(x))


class Messages(nn.Module):
    """A graph layer in which every feature of a message has its own target; the numbers are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.own, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("target", torch.randint(6, (1, 6, 8)))

    def forward(self, x: Tensor) -> Tensor:
        target = self.target.expand(x.shape[0], -1, -1)
        return self.out(self.own(x).scatter_add(1, target, self.message(x)).relu())


class WrappedFeatures(nn.Module):
    """The features of a token wrap around: their border is copied to the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(10, 2)
        self.free, self.end = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.pad(self.embed(x), (1, 1), mode="circular")) + self.end(self.free(x))


class Convolved(nn.Module):
    """The operator beneath all convolutions, called by itself; the number of groups is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.kernel = 8, nn.Parameter(torch.randn(8, 1, 3, 3))
        self.first, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.out(torch.convolution(x, self.kernel, None, [1], [1], [1], False, [0, 0], self.groups))


def sandwich(middle: Callable[[Any, Tensor], Tensor], after: int = 8, **attributes: Any) -> Net:
    return lambda: Sandwich(middle, after, **attributes), IMAGE


def literal_ones(_: Any, x: Tensor) -> Tensor:
    """Asks the channels for their type only."""
    return x * x.new_ones(x.shape[0], 8, 6, 6)


def pooled_channels_last(_: Any, x: Tensor) -> Tensor:
    """PyTorch's pooling to one place puts the strides of its result right by ``as_strided_``."""
    return F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1)


def strided(_: Any, x: Tensor) -> Tensor:
    return x.as_strided((x.shape[0], 8, 6, 6), (288, 36, 6, 1))


def in_order(m: Any, x: Tensor) -> Tensor:
    return x[:, m.order]


def gathered(m: Any, x: Tensor) -> Tensor:
    return x.gather(1, m.order[:, None, None].expand(x.shape[0], -1, 6, 6))


def windows_of_channels(_: Any, x: Tensor) -> Tensor:
    """Two windows of four channels; that there are two is fixed, so only their places could go."""
    windows = x.unfold(1, 4, 4) + x.new_ones(2, 1, 1, 1)
    return windows.movedim(-1, 2).flatten(1, 2)


def cropped(_: Any, x: Tensor) -> Tensor:
    """The two cropped channels are read elsewhere, so something would be gained by their removal."""
    return torch.cat([x, F.pad(x, (0, 0, 0, 0, -2, 0))], dim=1)


def half_of_it_held(_: Any, x: Tensor) -> Tensor:
    """The first half meets a constant; as both must stay equally long, the second must stay too."""
    first, second = x.chunk(2, dim=1)
    return torch.cat([first + x.new_ones(4, 1, 1), second], dim=1)


def unknown_beside(m: Any, x: Tensor) -> Tensor:
    """The channels are read beside the unknown operator too: nothing but a pin can hold them."""
    return torch.cat([x, unknown(m, x)], dim=1)


def selected(m: Any, x: Tensor) -> Tensor:
    return x + x.select(1, m.pick)[:, None]


def repeated_mean(m: Any, x: Tensor) -> Tensor:
    """One value repeated as often as there are channels: fewer channels, fewer repetitions."""
    return x + x.mean(1, keepdim=True).repeat(1, m.width, 1, 1)


def repeated_by_share(_: Any, x: Tensor) -> Tensor:
    """How often all channels are repeated follows from how many there are, and must not change."""
    return x.repeat(1, x.shape[1] // 4, 1, 1)


def literal_slice(_: Any, x: Tensor) -> Tensor:
    return torch.cat([x[:, 5:], x[:, :5].relu()], dim=1)


@functools.cache
def exported_slices() -> nn.Module:
    torch.manual_seed(0)
    return exported(Sandwich(literal_slice), IMAGE())


def sliced_graph() -> nn.Module:
    """Only an exported graph slices by an operator; Python's brackets are another function. Exported once."""
    return copy.deepcopy(exported_slices())


RARE: dict[str, Net] = {
    "steps_apart": (StepsApart, ROWS),
    "inference_mode": (Inferring, ROWS),
    "triangular": (Triangular, ROWS),
    "scattered": (Messages, SEQUENCE),
    "wrapped_features": (WrappedFeatures, SEQUENCE),
    "literal_ones": sandwich(literal_ones),
    "pooled_channels_last": sandwich(pooled_channels_last),
    "strided": sandwich(strided),
    "in_order": sandwich(in_order, order=ORDER),
    "gathered_channels": sandwich(gathered, order=nn.Buffer(torch.tensor(ORDER))),
    "windows_of_channels": sandwich(windows_of_channels),
    "cropped": sandwich(cropped, 14),
    "half_of_it_held": sandwich(half_of_it_held),
    "unknown_beside": sandwich(unknown_beside, 16),
    "shuffled": sandwich(shuffled),
    "selected": sandwich(selected, pick=3),
    "repeated_mean": sandwich(repeated_mean),
    "repeated_by_share": sandwich(repeated_by_share, 16),
    "convolved": (Convolved, IMAGE),
    "exported_slices": (sliced_graph, IMAGE),
}
