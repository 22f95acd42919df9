"""Blocks from sequence to sequence: [N, 25, C] -> [N, 25, C']. The first is what failing networks shrink to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroprune.testing.blocks._base import PLACES, Block, Menu, Past, Site, Through, on
from neuroprune.testing.blocks.image import Skip, activation

SEQUENCE: Menu = []


@on(SEQUENCE)
def linear(site: Site) -> Block:
    return Through(nn.Linear(site.channels, site.width))


on(SEQUENCE)(activation)
on(SEQUENCE)(Skip)


@on(SEQUENCE)
class Mlp(Block):
    """A residual layer with an inner width, normed before it or not."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        c, inner = site.channels, 2 * site.width
        self.layers = nn.Sequential(nn.Linear(c, inner), nn.GELU(), nn.Linear(inner, c))
        self.norm = nn.LayerNorm(c) if site.choice % 2 else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> Tensor:
        change: Tensor = self.layers(self.norm(x))
        return x + change


@on(SEQUENCE)
class Norm(Block):
    """A layer norm, or a root mean square by hand."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(site.channels) + 0.5)
        self.norm = nn.LayerNorm(site.channels) if site.choice % 2 else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        rooted = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)
        normed: Tensor = x * rooted if self.norm is None else self.norm(x)
        return normed * self.weight


@on(SEQUENCE)
class Join(Block):
    """Two results of unequal width side by side."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.side = site.side

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return torch.cat([past[self.side], x], -1)


@on(SEQUENCE)
class Position(Block):
    """Learned positions, and a learned token in front that is dropped again."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, PLACES + 1, site.channels))
        self.token = nn.Parameter(torch.randn(1, 1, site.channels))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return x[:, 1:] + x[:, :1].sigmoid()


@on(SEQUENCE)
class Glu(Block):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.layer = nn.Linear(site.channels, 2 * site.width)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        a, b = self.layer(x).chunk(2, dim=-1)
        gated: Tensor = a * F.silu(b)
        return gated


@on(SEQUENCE)
class Split(Block):
    """Unequal pieces by attribute: a list, or a bound."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.bound = max(1, site.channels // 3)
        self.sizes = [self.bound, site.channels - self.bound]
        self.a, self.b = nn.Linear(self.sizes[0], site.width), nn.Linear(self.sizes[1], site.width)
        self.by_bound = bool(site.choice % 2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.by_bound:
            a, b = x[..., : self.bound], x[..., self.bound :]
        else:
            a, b = torch.split(x, self.sizes, dim=-1)
        found: Tensor = self.a(a) * self.b(b).tanh()
        return found


@on(SEQUENCE)
class Convolved(Block):
    """A convolution over the tokens, dense or depthwise."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        groups = site.channels if site.choice % 2 else 1
        outputs = site.channels if site.choice % 2 else site.width
        self.layer = nn.Conv1d(site.channels, outputs, 3, padding=1, groups=groups)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.layer(x.transpose(1, 2)).transpose(1, 2)
        return found


@on(SEQUENCE)
class Recurrent(Block):
    """LSTM or GRU, one way or both; one makes its first state itself, of a size kept as an attribute."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.hidden = site.width // 2 + 1
        both = site.choice % 3 == 0
        layer = nn.GRU if site.choice % 2 else nn.LSTM
        self.layer = layer(site.channels, self.hidden, batch_first=True, bidirectional=both)
        self.given = site.choice % 6 == 1

    def forward(self, x: Tensor, past: Past) -> Tensor:
        state = x.new_zeros(1, x.shape[0], self.hidden) if self.given else None
        steps: Tensor = self.layer(x, state)[0]
        return steps


@on(SEQUENCE)
class Moved(Block):
    """Tokens rolled, reordered by a buffer, repeated and taken in steps."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(PLACES))
        self.way = site.choice % 4

    def forward(self, x: Tensor, past: Past) -> Tensor:
        order = self.get_buffer("order")
        ways = (
            lambda: x.roll(3, 1),
            lambda: x.index_select(1, order),
            lambda: x.gather(1, order[None, :, None].expand_as(x)),
            lambda: x.repeat_interleave(2, dim=1)[:, ::2],
        )
        return ways[self.way]()


@on(SEQUENCE)
class Mixer(Block):
    """A layer over the tokens, and a mean over them."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.across = nn.Sequential(nn.Linear(PLACES, site.width), nn.ReLU(), nn.Linear(site.width, PLACES))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        mixed: Tensor = self.across(x.transpose(1, 2)).transpose(1, 2)
        return mixed * x.softmax(1) + x.mean(1, keepdim=True)


@on(SEQUENCE)
class Outer(Block):
    """The outer product of two narrow layers, flattened: one dimension of two groups."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(site.channels, 3), nn.Linear(site.channels, 4)
        self.out = nn.Linear(12, site.width)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        found: Tensor = self.out(torch.einsum("nli,nlj->nlij", self.a(x), self.b(x).tanh()).flatten(-2))
        return found


@on(SEQUENCE)
class Again(Block):
    """One layer, applied as often as an attribute says: that number is no width."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.steps = 2
        self.layer = nn.Linear(site.channels, site.channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for _ in range(self.steps):
            x = x + self.layer(x).tanh()
        return x


@on(SEQUENCE)
class Tied(Block):
    """Down and up again by the same matrix."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.layer = nn.Linear(site.channels, site.width, bias=False)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return F.linear(self.layer(x).relu(), self.layer.weight.t()) + x


@on(SEQUENCE)
def encoder(site: Site) -> Block:
    """PyTorch's own layer, of two heads."""
    width = 2 * max(2, site.width // 2)
    layer = nn.TransformerEncoderLayer(
        width, 2, dim_feedforward=6, dropout=0.0, batch_first=True, norm_first=bool(site.choice % 2)
    )
    return Through(nn.Linear(site.channels, width), layer)


@on(SEQUENCE)
class Multihead(Block):
    """nn.MultiheadAttention of a sequence on an earlier one."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        width = 2 * max(2, site.width // 2)
        self.side, other = site.side, site.shapes[site.side][2]
        self.query = nn.Linear(site.channels, width)
        self.attention = nn.MultiheadAttention(width, 2, kdim=other, vdim=other, batch_first=True)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        memory = past[self.side]
        found: Tensor = self.attention(self.query(x), memory, memory, need_weights=False)[0]
        return found
