"""Sizes written in Python: attributes, quotients, nested lists, tables, config objects, shapes of anything.

Every network here can be cut when the numbers that follow a width are corrected with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, ROWS, SEQUENCE, Case, normal
from torch import Tensor, nn


@dataclass
class Config:
    """A plain object that the network keeps and reads its sizes from."""

    hidden: int = 8
    heads: int = 4
    pieces: list[int] = field(default_factory=lambda: [5, 3])
    more: dict[str, Any] = field(default_factory=lambda: {"inner": (12, 0.0)})


class Configured(nn.Module):
    """All sizes come from ``self.config``, at the time of the forward pass."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        inner = config.more["inner"][0]
        self.embed, self.up, self.down = nn.Linear(4, config.hidden), nn.Linear(8, inner), nn.Linear(inner, 8)
        self.a, self.b, self.head = nn.Linear(5, 6), nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x = self.embed(x).view(b, n, self.config.hidden)
        x = self.down(self.up(x).relu().view(-1, self.config.more["inner"][0])).view(b, n, self.config.hidden)
        left, right = x.split(self.config.pieces, dim=-1)
        return self.head(self.a(left) + self.b(right))


class ConfiguredHeads(nn.Module):
    """transformers' way: heads and head size are read from a shared config object."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden // config.heads
        self.embed = nn.Linear(4, config.hidden)
        self.q, self.k, self.v = (nn.Linear(config.hidden, config.hidden) for _ in range(3))
        self.out = nn.Linear(config.hidden, 3)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], self.config.heads, self.head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        weights = torch.matmul(q, k.transpose(-1, -2)).softmax(-1)
        context = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        return self.out(context.view(*context.shape[:-2], self.config.heads * self.head_size))


class NestedTable(nn.Module):
    """Split sizes in a list of tuples, one per stage, and in a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.named = [(4, 4), (2, 6)], {"last": [6, 2]}
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split(self.table[0], dim=1)
        a, b = self.second(torch.cat([a.tanh(), b], dim=1)).split(list(self.table[1]), dim=1)
        a, _ = self.third(torch.cat([b, a.relu()], dim=1)).split(self.named["last"], dim=1)
        return self.out(a)


class Sized(nn.Module):
    """Convolution to ``width`` channels -> ``size(self, x)`` -> convolution; the sizes are attributes."""

    def __init__(self, size: Callable[[Any, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.width, self.groups = 8, 4
        for name, value in attributes.items():
            setattr(self, name, value)
        self.conv, self.out, self.size = nn.Conv2d(3, self.width, 1), nn.Conv2d(8, 2, 1), size

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.size(self, self.conv(x)))


class FromParameter(nn.Module):
    """The size of a view is read from the shape of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(8, 3)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight)
        x = x.view(-1, self.weight.shape[0], 1).expand(-1, self.weight.size(0), 2)
        return self.out(x.mean(2).reshape(x.shape[0], self.out.weight.shape[1]))


class FlattenShape(nn.Module):
    """Sizes worked out from shapes in the ways people do it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 6, 1), nn.Linear(6 * 9, 2), nn.Linear(6 * 9, 2)
        self.c = nn.Linear(6 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        a = x.view(x.size(0), x.numel() // x.size(0))
        b = x.reshape(-1, math.prod(x.shape[1:]))
        c = x.contiguous().view(len(x), x.size(1) * x.size(2) * x.size(3))
        return self.a(a) + self.b(b) + self.c(c)


class FeatureCount(nn.Module):
    """The tutorial's num_flat_features: a loop over the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Linear(6 * 36, 2)

    def count(self, x: Tensor) -> int:
        total = 1
        for size in x.size()[1:]:
            total *= size
        return total

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.out(x.view(-1, self.count(x)))


class Checked(nn.Module):
    """Asserts and branches on its own sizes; a wrong one raises or takes another way."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inputs = self.outputs = self.width = width
        self.stem, self.conv, self.out = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        assert x.shape[1] == self.width, f"{x.shape[1]} channels instead of {self.width}"
        torch._assert(x.size(1) == self.inputs, "another width was expected")
        y = self.conv(x)
        if self.inputs == self.outputs:
            y = y + x
        if y.shape[1] != self.outputs:
            raise ValueError("the block changed its width")
        return self.out(y)


class Unflattened(nn.Module):
    """nn.Unflatten keeps its sizes in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 8 * 4), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(2)
        )
        self.out = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


class MadeTensors(nn.Module):
    """Constants made in the forward pass at a width kept as an attribute: each value is the same in all places."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.embed, self.out = nn.Linear(4, self.hidden), nn.Linear(self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x = self.embed(x) + torch.full((self.hidden,), 0.5, dtype=x.dtype)
        pad = x.new_zeros(b, 1, self.hidden)
        return self.out(torch.cat([pad, x * torch.ones(n, self.hidden, dtype=x.dtype)], dim=1))


class Hyper(nn.Module):
    """One layer makes the weights of another: outputs x inputs, flat, and a bias behind them."""

    def __init__(self, inputs: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.make = nn.Linear(3, hidden * inputs + hidden)
        self.first, self.out = nn.Linear(3, inputs), nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = self.make(x)
        weight, bias = made.split([self.hidden * self.inputs, self.hidden], dim=1)
        weight = weight.view(-1, self.hidden, self.inputs)
        x = torch.bmm(weight, self.first(x).unsqueeze(2)).squeeze(2) + bias
        return self.out(x.relu())


class PartOfWeight(nn.Module):
    """A slimmable layer: the active width is an attribute that slices the weight; all of it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.active = 8
        self.weight, self.bias = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(x, self.weight[: self.active], self.bias[: self.active]).relu())


SAME = {"conv.weight.0": 8, "out.weight.1": 8}
CUT = ("conv.weight.0", "out.weight.1")


def sized(size: Callable[[Any, Tensor], Tensor], **attributes: Any) -> Case:
    return Case(lambda: Sized(size, **attributes), IMAGE, SAME)


def namespace() -> Any:
    return SimpleNamespace(hidden=8, heads=4, pieces=[5, 3], more={"inner": (12, 0.0)})


CONFIGURED = {"up.weight.0": 12, "down.weight.0": (3, 5), "a.weight.1": 5, "b.weight.1": 3, "embed.weight.0": 8}
SIZES = {
    "config_dataclass": Case(lambda: Configured(Config()), SEQUENCE, shrinks=tuple(CONFIGURED)),
    "config_namespace": Case(lambda: Configured(namespace()), SEQUENCE, shrinks=tuple(CONFIGURED)),
    "config_heads": Case(
        lambda: ConfiguredHeads(Config()), SEQUENCE, {"embed.weight.0": 8},
        {"q.weight.0": 4, "k.weight.0": 4, "v.weight.0": 4, "out.weight.1": 4},
    ),
    "nested_tables": Case(
        NestedTable, IMAGE, {"first.weight.0": (4, 4), "second.weight.0": (2, 6), "out.weight.1": 6}),
    "view_with_its_width": sized(lambda m, x: x.view(-1, m.width, 6, 6)),
    "view_with_literal_space": sized(lambda m, x: x.view(x.size(0), m.width, 36).view(-1, m.width, 6, 6)),
    "reshape_with_all_but_one": sized(lambda m, x: x.flatten(2).reshape(x.shape[0], -1, 6, 6)),
    "unpacked_shape": sized(lambda m, x: x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).reshape(
        *x.shape[:1], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)),
    "twice_half_of_width": sized(lambda m, x: x.view(x.shape[0], 2 * m.half, *x.shape[2:]), half=4),
    "rounded_up_quotient": sized(lambda m, x: x.view(x.shape[0], -(-m.doubled // 2), 6, 6), doubled=16),
    "width_by_divmod": sized(lambda m, x: x.view(x.shape[0], divmod(m.doubled, 2)[0], 6, 6), doubled=16),
    "smaller_of_two_widths": sized(lambda m, x: x[:, : min(m.width, m.limit)], limit=100),
    "groups_viewed_by_attribute": Case(
        lambda: Sized(lambda m, x: x.view(x.shape[0], m.groups, -1, 6, 6).tanh().flatten(1, 2)), IMAGE,
        shrinks=CUT,
    ),
    # literals that fix one of two factors leave the other free
    "literal_head_dim": Case(
        lambda: Sized(lambda m, x: x.view(x.shape[0], -1, 2, 36).softmax(2).view(x.shape[0], -1, 6, 6)), IMAGE,
        among={"conv.weight.0": 4, "out.weight.1": 4},
    ),
    "literal_heads": Case(
        lambda: Sized(lambda m, x: x.view(x.shape[0], 2, -1, 36).softmax(1).view(x.shape[0], -1, 6, 6)), IMAGE,
        among={"conv.weight.0": 4, "out.weight.1": 4},
    ),
    "size_of_a_parameter": Case(FromParameter, ROWS, {"weight.0": 8, "out.weight.1": 8}),
    "products_of_shapes": Case(
        FlattenShape, IMAGE, {"conv.weight.0": 6, "a.weight.1": 6, "b.weight.1": 6, "c.weight.1": 6},
        footprint={"b.weight.1": [list(range(9 * i, 9 * i + 9)) for i in range(6)]},
    ),
    "loop_over_shape": Case(FeatureCount, IMAGE, {"conv.weight.0": 6, "out.weight.1": 6}),
    "checks_of_its_sizes": Case(
        Checked, IMAGE, {"stem.weight.0": 8, "conv.weight.0": 8, "conv.weight.1": 8, "out.weight.1": 8}),
    "unflatten_layer": Case(
        Unflattened, ROWS, {"body.0.weight.0": 8, "body.3.weight.0": 8, "body.3.weight.1": 4, "out.weight.1": 4}),
    "made_tensors": Case(
        MadeTensors, SEQUENCE, {"embed.weight.0": 8, "embed.bias.0": 8, "out.weight.1": 8}),
    "made_weights": Case(
        Hyper, normal(4, 3), {"first.weight.0": 4, "out.weight.1": 6, "make.weight.0": (4, 6)},
        shrinks=("make.weight.0", "out.weight.1")),  # the product of both is cut by one of them
    "part_of_a_weight": Case(PartOfWeight, ROWS, {"weight.0": 8, "bias.0": 8, "out.weight.1": 8}),
}  # fmt: skip
