"""Attention by hand, in the ways it is written: more blocks from sequence to sequence [N, 25, C]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroprune.testing.blocks._base import Block, Past, Site, on
from neuroprune.testing.blocks.sequence import SEQUENCE


class _Heads(Block):
    """2 or 4 heads of 2 or 3 places; what comes out is added to the input."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.heads, self.head_dim = (2, 4)[site.choice % 2], (2, 3)[site.choice // 2 % 2]
        self.scale = self.head_dim**-0.5
        self.proj = nn.Linear(self.heads * self.head_dim, site.channels)

    def joined(self, y: Tensor) -> Tensor:
        """[N, L, heads * head_dim] -> [N, L, C]."""
        found: Tensor = self.proj(y)
        return found


@on(SEQUENCE)
class Fused(_Heads):
    """q, k and v of one layer, viewed with attributes; the head dimension is a quotient."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.inner = self.heads * self.head_dim
        self.qkv = nn.Linear(site.channels, 3 * self.inner)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, self.inner // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return x + self.joined(y)


@on(SEQUENCE)
class Separate(_Heads):
    """Three layers, the scale worked out before or from the attribute, in einsum or matmul."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        inner = self.heads * self.head_dim
        self.q, self.k, self.v = (nn.Linear(site.channels, inner) for _ in range(3))
        self.own = bool(site.choice // 4 % 2)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        if self.own:
            weights = torch.einsum("bhqd,bhkd->bhqk", q * self.scale, k).softmax(-1)
        else:
            weights = (q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)).softmax(-1)
        return x + self.joined((weights @ v).transpose(1, 2).flatten(2))


@on(SEQUENCE)
class Grouped(_Heads):
    """Two query heads for each head of keys and values, with or without rotary positions."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.head_dim, self.repeats = 4, 2
        self.kv_heads = self.heads // self.repeats
        self.rotary = bool(site.choice // 2 % 2)
        self.q, self.proj = (
            nn.Linear(site.channels, self.heads * self.head_dim),
            nn.Linear(self.heads * self.head_dim, site.channels),
        )
        self.k, self.v = (nn.Linear(site.channels, self.kv_heads * self.head_dim) for _ in range(2))
        self.register_buffer("frequency", torch.tensor([1.0, 0.1]))

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * self.get_buffer("frequency")
        angles, half = torch.cat([angles, angles], dim=-1), x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * angles.cos() + turned * angles.sin()

    def forward(self, x: Tensor, past: Past) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k, v = (layer(x).view(b, n, -1, self.head_dim).transpose(1, 2) for layer in (self.k, self.v))
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        k, v = k.repeat_interleave(self.repeats, dim=1), self.spread(v)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.joined(y.transpose(1, 2).reshape(b, n, -1))

    def spread(self, x: Tensor) -> Tensor:
        b, heads, n, d = x.shape
        return x[:, :, None].expand(b, heads, self.repeats, n, d).reshape(b, heads * self.repeats, n, d)


@on(SEQUENCE)
class LikeInput(Block):
    """``reshape(b, n, c)`` with c of the input: its width and heads x head dimension are the same number."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.heads = site.even
        self.qkv = nn.Linear(site.channels, 3 * site.channels)
        self.proj = nn.Linear(site.channels, site.channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        change: Tensor = self.proj(y.transpose(1, 2).reshape(b, n, c))
        return x + change


@on(SEQUENCE)
class Linear(_Heads):
    """No softmax: keys and values are summed over the tokens first; heads folded into the batch."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.qkv = nn.Linear(site.channels, 3 * self.heads * self.head_dim)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        b, n, _ = x.shape

        def fold(t: Tensor) -> Tensor:
            return t.view(b, n, self.heads, self.head_dim).transpose(1, 2).reshape(-1, n, self.head_dim)

        q, k, v = (fold(t) for t in self.qkv(x).split(self.heads * self.head_dim, dim=-1))
        y = torch.bmm(q.sigmoid(), torch.bmm(k.tanh().transpose(1, 2), v) / n)
        return x + self.joined(y.view(b, self.heads, n, self.head_dim).transpose(1, 2).flatten(2))
