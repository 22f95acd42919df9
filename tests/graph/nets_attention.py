"""Attention by hand: heads x head dimension is a product of two groups, written in Python in many ways."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from graph.nets_case import SEQUENCE, Case
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """timm's vision transformer: one matrix for q, k and v. ``reshape`` says how its rows are viewed."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.width = heads, head_dim, heads * head_dim
        self.qkv, self.proj = nn.Linear(width, 3 * self.width), nn.Linear(self.width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v: [batch, heads, tokens, head_dim]."""
        b, n, _ = x.shape
        return self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.join(self.attend(*self.split(x))))


class QuotientView(FusedAttention):
    """The head dimension is worked out where it is needed."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        return self.qkv(x).view(b, n, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def join(self, x: Tensor) -> Tensor:
        b, h, n, d = x.shape
        return x.transpose(1, 2).reshape(b, n, h * d)


class JoinLikeInput(FusedAttention):
    """timm writes ``reshape(B, N, C)`` with C of the *input*: the stream's width is heads x head_dim."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, n, c))


class OwnScale(FusedAttention):
    """The scale was worked out in the constructor and stays what it was: exact."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__(width, heads, head_dim)
        self.scale = head_dim**-0.5

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v


class SquareRoot(FusedAttention):
    """The scale follows the attribute: another one after head dimensions went."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)).softmax(-1) @ v


class SquareRootOfShape(FusedAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1) @ v


class GivenScale(FusedAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=0.5)


class EinsumAttention(FusedAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(0.5).softmax(-1)
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class EinsumTokensFirst(FusedAttention):
    """Heads behind the tokens, never transposed."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


class FoldedHeads(FusedAttention):
    """Heads folded into the batch, products with bmm (fairseq, old PyTorch)."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape

        def fold(t: Tensor) -> Tensor:
            return (
                t.contiguous().view(b, n, self.heads, self.head_dim).transpose(1, 2).reshape(-1, n, self.head_dim)
            )

        q, k, v = (fold(t) for t in self.qkv(x).chunk(3, dim=-1))
        attended = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        joined = attended.view(b, self.heads, n, self.head_dim).transpose(1, 2).reshape(b, n, self.width)
        return self.proj(joined)


class HeadLoop(FusedAttention):
    """Each head is cut out by hand: only the same places of every head can go."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(self.width, dim=-1)
        found = []
        for head in range(self.heads):
            own = slice(head * self.head_dim, (head + 1) * self.head_dim)
            found.append((q[..., own] @ k[..., own].transpose(1, 2) * 0.5).softmax(-1) @ v[..., own])
        return self.proj(torch.cat(found, dim=-1))


class LinearAttention(FusedAttention):
    """Feature maps instead of a softmax: k and v are summed over the tokens first."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.relu(), k.relu()
        return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2).unsqueeze(-1) + 1.0)


class RelativeBias(FusedAttention):
    """A bias per head and pair of tokens, looked up in a table [distances, heads] (Swin, T5)."""

    def __init__(self, width: int, heads: int, head_dim: int, count: int = 6) -> None:
        super().__init__(width, heads, head_dim)
        self.table = nn.Parameter(torch.randn(2 * count - 1, heads))
        places = torch.arange(count)
        self.register_buffer("index", places[:, None] - places[None] + count - 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        count = q.shape[2]
        bias = self.table[self.index.view(-1)].view(count, count, -1).permute(2, 0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))


class TalkingHeads(FusedAttention):
    """A linear layer over the heads: they are channels as well."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__(width, heads, head_dim)
        self.talk = nn.Linear(heads, heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = self.talk((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return weights.softmax(-1) @ v


class HeadTemperature(FusedAttention):
    """One learned temperature per head, unit-length q and k (Swin V2, XCiT)."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__(width, heads, head_dim)
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (weights * self.temperature).softmax(-1) @ v


class ChannelAttention(FusedAttention):
    """XCiT: attention between the channels of a head, so a softmax over head dimensions."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(-2, -1) for t in (q, k, v))
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(-2, -1)


class QueryNorm(FusedAttention):
    """Norms over the head dimension of q and k."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__(width, heads, head_dim)
        self.q_norm, self.k_norm = nn.LayerNorm(head_dim), nn.RMSNorm(head_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


class Grouped(nn.Module):
    """Four query heads on two heads of keys and values; ``spread`` repeats the latter."""

    def __init__(self, width: int = 8, heads: int = 4, kv_heads: int = 2, head_dim: int = 4) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.repeats = heads // kv_heads
        self.q = nn.Linear(width, heads * head_dim, bias=False)
        self.k = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, width, bias=False)

    def spread(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.repeats, dim=1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, self.spread(k), self.spread(v))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, n, -1))


class GroupedExpand(Grouped):
    """transformers' repeat_kv."""

    def spread(self, x: Tensor) -> Tensor:
        b, kv_heads, n, d = x.shape
        if self.repeats == 1:
            return x
        x = x[:, :, None].expand(b, kv_heads, self.repeats, n, d)
        return x.reshape(b, kv_heads * self.repeats, n, d)


class GroupedNative(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class GroupedFive(Grouped):
    """Queries viewed as key heads x repeats: five dimensions, nothing is repeated."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, _, n, d = q.shape
        q = q.reshape(b, self.kv_heads, self.heads // self.kv_heads, n, d)
        weights = (q @ k.unsqueeze(2).transpose(-2, -1)).softmax(-1)
        return (weights @ v.unsqueeze(2)).flatten(1, 2)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], dim=-1)


class Rotary(Grouped):
    """Rotary positions by halves: places i and i + half of a head turn together, by a buffer [half]."""

    def __init__(self) -> None:
        super().__init__(head_dim=8)
        self.register_buffer("frequency", 10.0 ** -torch.arange(0, 1, 0.25), persistent=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(q.shape[2], dtype=q.dtype)[:, None] * self.frequency
        angles = torch.cat([angles, angles], dim=-1)
        q, k = (t * angles.cos() + rotate_half(t) * angles.sin() for t in (q, k))
        return super().attend(q, k, v)


class RotaryInterleaved(Rotary):
    """Neighbours turn together: ::2 and 1::2."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(q.shape[2], dtype=q.dtype)[:, None] * self.frequency
        sin, cos = angles.sin(), angles.cos()

        def turn(t: Tensor) -> Tensor:
            even, odd = t[..., ::2], t[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

        return Grouped.attend(self, turn(q), turn(k), v)


class RotaryComplex(Rotary):
    """Neighbours as complex numbers (Llama's first code)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(q.shape[2], dtype=q.dtype)[:, None] * self.frequency
        turns = torch.polar(torch.ones_like(angles), angles)

        def turn(t: Tensor) -> Tensor:
            pairs = torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turns).flatten(3)

        return Grouped.attend(self, turn(q), turn(k), v)


class Causal(Grouped):
    """A causal mask from a buffer, filled with minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(8, 8).tril().bool())

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[2]
        weights = q @ self.spread(k).transpose(-2, -1) * 0.5
        return weights.masked_fill(~self.mask[:n, :n], float("-inf")).softmax(-1) @ self.spread(v)


class Tokens(nn.Module):
    """Linear -> ``attention`` with a residual -> mean -> linear: the frame of every case here."""

    def __init__(self, attention: nn.Module, *, residual: bool = False) -> None:
        super().__init__()
        self.embed, self.attn, self.head = nn.Linear(4, 8), attention, nn.Linear(8, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attn(x) if self.residual else self.attn(x)
        return self.head(x.mean(1))


class Multiquery(nn.Module):
    """Four query heads, one head of keys and values: two literal ones in the views."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 4
        self.q, self.kv, self.proj = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).split((self.head_dim, self.head_dim), dim=-1)
        weights = (q @ k.view(b, 1, n, self.head_dim).transpose(-2, -1) * 0.5).softmax(-1)
        return self.proj((weights @ v.unsqueeze(1)).transpose(1, 2).flatten(2))


#: what every fused attention below has: 8 channels in the stream, 4 heads of 4
STREAM = {"embed.weight.0": 8, "attn.qkv.weight.1": 8, "attn.proj.weight.0": 8, "head.weight.1": 8}
HEADS = {"attn.qkv.weight.0": 4, "attn.proj.weight.1": 4}
#: two key heads: a unit is one of them with its two query heads
KV = {"attn.q.weight.0": 2, "attn.k.weight.0": 2, "attn.v.weight.0": 2, "attn.proj.weight.1": 2}


def fused(kind: type[FusedAttention], statistics: bool | None = None, **options: object) -> Case:
    """Head dimensions change the default scale, heads change nothing, so ``statistics`` is mostly open."""
    return Case(lambda: Tokens(kind(8, 4, 4)), SEQUENCE, STREAM, HEADS, statistics=statistics, **options)


def grouped(kind: type[Grouped], statistics: bool | None = None) -> Case:
    return Case(
        lambda: Tokens(kind()), SEQUENCE, {"embed.weight.0": 8, "head.weight.1": 8}, KV, statistics=statistics
    )


ATTENTION = {
    "attention": fused(FusedAttention),
    "attention_quotient_view": fused(QuotientView),
    "attention_joined_like_its_input": Case(
        lambda: Tokens(JoinLikeInput(8, 4, 2), residual=True), SEQUENCE, STREAM, HEADS, statistics=None),
    "attention_own_scale": fused(OwnScale, False),
    "attention_square_root": fused(SquareRoot),
    "attention_square_root_of_shape": fused(SquareRootOfShape),
    "attention_given_scale": fused(GivenScale, False),
    "attention_einsum": fused(EinsumAttention, False),
    "attention_einsum_tokens_first": fused(EinsumTokensFirst, False),
    "attention_folded_heads": fused(FoldedHeads, False),
    "attention_linear": fused(LinearAttention, False),
    "attention_relative_bias": fused(RelativeBias),
    "attention_talking_heads": fused(TalkingHeads, False),
    "attention_temperature": fused(HeadTemperature),
    "attention_between_channels": fused(ChannelAttention),
    "attention_query_norm": fused(QueryNorm),
    "attention_residual": Case(
        lambda: Tokens(FusedAttention(8, 4, 4), residual=True), SEQUENCE, STREAM, HEADS, statistics=None),
    "attention_multiquery": Case(
        lambda: Tokens(Multiquery()), SEQUENCE, {"embed.weight.0": 8, "attn.kv.weight.1": 8},
        {"attn.q.weight.0": 4, "attn.proj.weight.1": 4}, statistics=False,
    ),
    "gqa_repeat_interleave": grouped(Grouped),
    "gqa_expand": grouped(GroupedExpand),
    "gqa_native": grouped(GroupedNative),
    "gqa_five_dimensions": grouped(GroupedFive, False),
    "gqa_causal_buffer": grouped(Causal, False),
    "rotary_halves": grouped(Rotary),
    "rotary_interleaved": grouped(RotaryInterleaved),
    "rotary_complex": grouped(RotaryComplex),
}  # fmt: skip
