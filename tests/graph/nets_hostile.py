"""Networks that must not be cut in some dimension, and ones where refusing is as right as cutting.

The comments ``# here`` mark the line that a refusal must point at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from graph.nets_attention import HeadLoop, Tokens
from graph.nets_case import IMAGE, ROWS, SEQUENCE, Hostile, normal
from graph.nets_index import PERMUTATION, MaskedChannels, Places
from graph.nets_layout import ShuffleUnit
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@torch.library.custom_op("neuroprune_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    """An operator that nobody can know: it reverses and doubles the last dimension."""
    return x.flip(-1) * 2


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


mystery.register_autograd(lambda ctx, grad: grad.flip(-1) * 2)


class Sandwich(nn.Module):
    """Convolution to 8 channels -> ``middle(self, x)`` -> convolution from 8 channels.

    ``free``: a second path that has nothing to do with it and must be cut all the same.
    """

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], after: int = 8, **attributes: Any) -> None:
        super().__init__()
        self.width = 8
        for name, value in attributes.items():
            setattr(self, name, value)
        self.conv, self.out, self.middle = nn.Conv2d(3, 8, 1), nn.Conv2d(after, 2, 1), middle
        self.free, self.end = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(self, self.conv(x))).mean((2, 3)) + self.end(self.free(x)).mean((2, 3))


def literal_view(_: Any, x: Tensor) -> Tensor:
    return x.view(-1, 8, 36).view(-1, 8, 6, 6)  # here


def literal_groups(_: Any, x: Tensor) -> Tensor:
    return x.view(x.shape[0], 4, 2, 6, 6).softmax(1).flatten(1, 2)  # here


def literal_split(_: Any, x: Tensor) -> Tensor:
    a, b = x.split([5, 3], dim=1)  # here
    return torch.cat([b.relu(), a], dim=1)


def literal_expand(_: Any, x: Tensor) -> Tensor:
    return x.expand(x.shape[0], 8, 6, 6).tanh()  # here


def closed_over(width: int) -> Callable[[Any, Tensor], Tensor]:
    def middle(_: Any, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], width, -1).reshape(x.shape[0], width, 6, 6)  # here

    return middle


def literal_groups_of_conv(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(8, 1, 1, 1, dtype=x.dtype), groups=8)  # here


def times_its_width(_: Any, x: Tensor) -> Tensor:
    return x * x.shape[1]  # here


def numbered(m: Any, x: Tensor) -> Tensor:
    return x * torch.arange(m.width, dtype=x.dtype).view(-1, 1, 1)  # here


def spaced(_: Any, x: Tensor) -> Tensor:
    return x + torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None, None]  # here


def cumulated(_: Any, x: Tensor) -> Tensor:
    return x.cumsum(1)  # here


def sorted_channels(_: Any, x: Tensor) -> Tensor:
    return x.sort(dim=1).values  # here


def best_channels(_: Any, x: Tensor) -> Tensor:
    return x.topk(3, dim=1).values  # here


def picked_channels(m: Any, x: Tensor) -> Tensor:
    return x.index_select(1, m.order)  # here


def listed_channels(_: Any, x: Tensor) -> Tensor:
    return x[:, [3, 1, 5, 0]]  # here


def fourier_of_channels(_: Any, x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=1).real  # here


def smoothed_channels(_: Any, x: Tensor) -> Tensor:
    return F.avg_pool1d(x.flatten(2).transpose(1, 2), 3, 1, 1).transpose(1, 2).unflatten(2, (6, 6))  # here


def unknown(_: Any, x: Tensor) -> Tensor:
    return mystery(x.movedim(1, -1)).movedim(-1, 1)  # here


class OutputSize(nn.Module):
    """The width of a hidden layer is an output: it reaches the user, so the layer must keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return x.shape[1] * self.b(x)  # here


class OutputIsHidden(nn.Module):
    """A hidden feature is returned beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x).relu()
        return self.b(x), x


class FixedTarget(nn.Module):
    """Meets a constant of its width that the network made in the forward pass out of plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype))  # here


class Broken(nn.Module):
    """Raises on its example, in a module of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.body = nn.Linear(3, 8), nn.Sequential(nn.ReLU(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.a(x))


class Routed(nn.Module):
    """Experts chosen by the input with a Python loop over those that got any tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen, y = self.gate(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            if (chosen == index).any():  # here
                y[chosen == index] = expert(x[chosen == index])
        return y


class Counting(nn.Module):
    """Stops when the values say so."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().sum())):  # here
            x = self.step(x)
        return self.out(x)


def sandwich(middle: Callable[[Any, Tensor], Tensor], operator: str = "", **attributes: Any) -> Hostile:
    return Hostile(lambda: Sandwich(middle, **attributes), IMAGE, ("conv.weight.0",), "# here", operator)


class Ordered(Sandwich):
    def __init__(self) -> None:
        super().__init__(picked_channels)
        self.register_buffer("order", torch.tensor([7, 3, 1, 5, 0, 2, 6, 4]))


HOSTILE = {
    "literal_view": sandwich(literal_view),
    "literal_groups": sandwich(literal_groups),
    "literal_split": sandwich(literal_split),
    "literal_expand": sandwich(literal_expand),
    "size_in_a_closure": sandwich(closed_over(8)),
    "literal_groups_of_a_convolution": sandwich(literal_groups_of_conv),
    "times_its_width": sandwich(times_its_width),
    "numbered_channels": sandwich(numbered),
    "spaced_channels": sandwich(spaced),
    "cumsum_of_channels": sandwich(cumulated, "cumsum"),
    "sorted_channels": sandwich(sorted_channels, "sort"),
    "topk_of_channels": sandwich(best_channels, "topk", after=3),
    "index_select_of_channels": Hostile(Ordered, IMAGE, ("conv.weight.0",), "# here", "index_select"),
    "list_of_channels": sandwich(listed_channels, "index", after=4),
    "fourier_of_channels": sandwich(fourier_of_channels, "_fft"),
    "smoothed_channels": sandwich(smoothed_channels, "avg_pool"),
    "unknown_operator": sandwich(unknown, "mystery"),
    "size_in_the_output": Hostile(OutputSize, ROWS, ("a.weight.0",), "# here"),
    "hidden_output": Hostile(OutputIsHidden, ROWS, ("a.weight.0", "b.weight.0"), "", "output"),
    "constant_out_of_numbers": Hostile(FixedTarget, ROWS, ("a.weight.0",), "# here", "add"),
    "orthogonal_parametrisation": Hostile(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.Linear(6, 2)), normal(4, 6),
        ("0.parametrizations.weight.original.0",), "",
    ),
}  # fmt: skip


class Tabled(Sandwich):
    """A function for each width: another width is a KeyError."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.choices[x.shape[1]](x))
        self.choices = {8: torch.tanh}


class ByNumpy(Sandwich):
    def __init__(self) -> None:
        super().__init__(lambda m, x: x.reshape(x.shape[0], int(np.prod([m.half, 2])), 6, 6), half=4)


class BesideZeros(nn.Module):
    """Zeros of the stream's width beside the stream: the columns that read them need not know of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.embed, self.out = nn.Linear(4, self.hidden), nn.Linear(2 * self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(torch.cat([x, torch.zeros(*x.shape[:2], self.hidden, dtype=x.dtype)], dim=-1))


class Cached(nn.Module):
    """Keeps a mask of its last width between calls, in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.cache is None or self.cache.shape != x.shape[1:]:
            self.cache = torch.ones(x.shape[1:], dtype=x.dtype)
        return self.b(x * self.cache.to(x))


def open_sandwich(middle: Callable[[Any, Tensor], Tensor], **attributes: Any) -> tuple[Any, Any]:
    return lambda: Sandwich(middle, **attributes), IMAGE


#: network and inputs where an exact cut and a refusal are both right; a wrong cut or an exception is not
OPEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "take_along_places": (
        lambda: Places(
            PERMUTATION, lambda x, i: torch.take_along_dim(x, i[None, :, None].expand_as(x), dim=1)), SEQUENCE),
    "mask_of_channels": (MaskedChannels, IMAGE),
    "shuffle_unit": (ShuffleUnit, IMAGE),
    "attention_head_loop": (lambda: Tokens(HeadLoop(8, 4, 4)), SEQUENCE),
    "int_of_a_quotient": open_sandwich(lambda m, x: x.view(-1, int(m.doubled / 2), 6, 6), doubled=16),
    "int_of_a_product": open_sandwich(lambda m, x: x.view(-1, int(m.half * 2.0), 6, 6), half=4),
    "rounded": open_sandwich(lambda m, x: x.view(-1, round(m.width * 1.0), 6, 6)),
    "rounded_up_to_a_multiple": open_sandwich(
        lambda m, x: F.pad(x, (0, 0, 0, 0, 0, -m.width % 8))[:, : (m.width + 7) // 8 * 8]),
    "numpy_product": (ByNumpy, IMAGE),
    "numpy_attribute": open_sandwich(lambda m, x: x.view(-1, m.count, 6, 6), count=np.int64(8)),
    "size_as_text": open_sandwich(lambda m, x: x.view(-1, int(m.text), 6, 6), text="8"),
    "size_in_a_tensor": open_sandwich(lambda m, x: x.view(-1, m.size.shape[0], 6, 6), size=torch.zeros(8)),
    "square_root_of_a_size": open_sandwich(lambda m, x: x.view(-1, int(m.square**0.5), 6, 6), square=64),
    "bits": open_sandwich(lambda m, x: x.view(-1, m.half << 1, 6, 6), half=4),
    "table_by_size": (Tabled, IMAGE),
    "scaled_by_its_width": open_sandwich(lambda m, x: x * x.shape[1] ** -0.5),
    "mean_as_sum_over_count": open_sandwich(lambda m, x: x - x.sum(1, keepdim=True) / x.shape[1]),
    "every_second_channel_only": open_sandwich(lambda m, x: x[:, ::2], after=4),
    "literal_chunk": open_sandwich(lambda m, x: torch.cat(x.split(4, dim=1)[::-1], dim=1)),
    "beside_zeros": (BesideZeros, SEQUENCE),
    "cached": (Cached, ROWS),
    "circulant": open_sandwich(lambda m, x: torch.stack([x.roll(i, 1) for i in range(2)]).sum(0)),
    "diagonal": open_sandwich(
        lambda m, x: torch.diagonal(x[:, :6].flatten(2)[:, :, :6], dim1=1, dim2=2)[:, :, None, None], after=6),
    "determinant": open_sandwich(
        lambda m, x: x * torch.linalg.det(x.flatten(2)[:, :, :8])[:, None, None, None]),
    "median_of_channels": open_sandwich(lambda m, x: x - x.median(1, keepdim=True).values),
    "unique_width": open_sandwich(lambda m, x: x.view(-1, len({*range(m.width)}), 6, 6)),
}  # fmt: skip
