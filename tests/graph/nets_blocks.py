"""Whole blocks of transformers, PyTorch's own and the usual hand-made ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graph.nets_attention import FusedAttention
from graph.nets_case import SEQUENCE, Case, normal
from torch import Tensor, nn


class PyTorchAttention(nn.Module):
    """nn.MultiheadAttention on itself; batch first or tokens first."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.embed, self.attn, self.head = nn.Linear(4, 8), nn.MultiheadAttention(8, 4, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attn(x, x, x, need_weights=False)[0])


class AttentionWeights(PyTorchAttention):
    """The weights, averaged over the heads, are an output as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x)
        y, weights = self.attn(x, x, x)
        return self.head(y), weights


class CrossAttention(nn.Module):
    """Queries from one stream, keys and values from others of their own widths: three separate matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.third = nn.Linear(4, 8), nn.Linear(5, 6), nn.Linear(5, 10)
        self.attn = nn.MultiheadAttention(8, 4, kdim=6, vdim=10, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.attn(self.left(x), self.right(memory), self.third(memory), need_weights=False)[0])


class Encoder(nn.Module):
    def __init__(self, layers: int = 1, **options: object) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, dim_feedforward=12, batch_first=True, **options)
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x))[:, 0])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory, self.head = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.body = nn.TransformerDecoderLayer(8, 4, dim_feedforward=12, batch_first=True, norm_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x), self.memory(memory)))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, layer scale, two norms, an MLP."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 10, width))
        self.norm1, self.attn = nn.LayerNorm(width), FusedAttention(width, 4, 2)
        self.scale1, self.scale2 = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.scale1 * self.attn(self.norm1(x))
        x = x + self.scale2 * self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Windows(nn.Module):
    """Swin's windows: shifted, partitioned, attended within, put back. ``literal``: sizes in the code."""

    def __init__(self, *, literal: bool, shift: int = 1, width: int = 8) -> None:
        super().__init__()
        self.window, self.shift, self.literal = 3, shift, literal
        self.embed, self.attn, self.head = nn.Conv2d(3, width, 1), FusedAttention(width, 4, 2), nn.Linear(width, 3)

    def partition(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        if self.literal:
            return x.view(b, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
        size = self.window
        x = x.view(b, h // size, size, w // size, size, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)

    def reverse(self, x: Tensor, h: int, w: int) -> Tensor:
        size = self.window
        x = x.view(-1, h // size, w // size, size, size, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], h, w, -1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        _, h, w, _ = x.shape
        shifted = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2)) if self.shift else x
        x = x + torch.roll(
            self.reverse(self.attn(self.partition(shifted)), h, w), (self.shift, self.shift), (1, 2)
        )
        return self.head(x.mean((1, 2)))


class Merging(nn.Module):
    """Swin's patch merging: four neighbours side by side, a norm over all of them, half as many out."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Conv2d(3, width, 1)
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.head(self.reduction(self.norm(x)).mean((1, 2)))


class SpatialMixer(nn.Module):
    """MLP-Mixer: a linear layer over the tokens, whose inner width can go, and one over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.across = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.gate = nn.Linear(4, 12)
        self.out = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.gate(x).chunk(2, dim=-1)
        x = self.embed(x)
        x = x + self.across(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x + self.out(u * v.tanh()))


class StateSpace(nn.Module):
    """Mamba's scan by hand: A [inner, states], a loop over time, the step from a low-rank projection."""

    def __init__(self, width: int = 4, inner: int = 8, states: int = 3, rank: int = 2) -> None:
        super().__init__()
        self.inner, self.states, self.rank = inner, states, rank
        self.inside, self.out = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, 3, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.dynamics = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, inner)
        self.a, self.d = nn.Parameter(torch.rand(inner, states)), nn.Parameter(torch.rand(inner))

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.inside(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, b, c = torch.split(self.dynamics(x), [self.rank, self.states, self.states], dim=-1)
        step = F.softplus(self.step(step))
        decay = torch.exp(step[..., None] * -self.a.exp())
        enters = step[..., None] * b[:, :, None] * x[..., None]  # [batch, time, inner, states]
        state, found = torch.zeros(x.shape[0], self.inner, self.states, dtype=x.dtype), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + enters[:, t]
            found.append((state * c[:, t, None]).sum(-1))
        return self.out((torch.stack(found, dim=1) + self.d * x) * F.silu(gate))


MHA = {"embed.weight.0": 8, "attn.in_proj_weight.1": 8, "attn.out_proj.weight.0": 8, "head.weight.1": 8}
IN = {"attn.in_proj_weight.0": 4, "attn.in_proj_bias.0": 4, "attn.out_proj.weight.1": 4}
TWO_STREAMS = {"x": normal(2, 6, 4), "memory": normal(2, 7, 5)}
ENCODER = {f"body.layers.0.{name}": size for name, size in {
    "linear1.weight.0": 12, "linear2.weight.1": 12, "norm1.weight.0": 8, "self_attn.in_proj_weight.1": 8,
}.items()}  # fmt: skip
ENCODER_HEADS = {"body.layers.0.self_attn.in_proj_weight.0": 4, "body.layers.0.self_attn.out_proj.weight.1": 4}


def two_streams() -> dict[str, Tensor]:
    return {name: make() for name, make in TWO_STREAMS.items()}


BLOCKS = {
    "multihead_attention": Case(
        lambda: PyTorchAttention(batch_first=True), SEQUENCE, MHA, IN, statistics=None),
    "multihead_attention_time_first": Case(PyTorchAttention, SEQUENCE, MHA, IN, statistics=None),
    "multihead_attention_without_bias": Case(
        lambda: PyTorchAttention(bias=False), SEQUENCE, MHA, {"attn.in_proj_weight.0": 4}, statistics=None),
    "multihead_attention_weights": Case(
        lambda: AttentionWeights(batch_first=True), SEQUENCE, MHA,
        # averaged over the heads, the weights are a mean over a dimension that shrinks
        shrinks=("attn.in_proj_weight.1",), statistics=None,
    ),
    "cross_attention": Case(
        CrossAttention, two_streams,
        {"left.weight.0": 8, "right.weight.0": 6, "third.weight.0": 10, "head.weight.1": 8},
        {"attn.q_proj_weight.0": 4, "attn.k_proj_weight.0": 4, "attn.v_proj_weight.0": 4}, statistics=None,
    ),
    "encoder_layer": Case(Encoder, SEQUENCE, ENCODER, ENCODER_HEADS, statistics=True),
    "encoder_layer_norm_first": Case(
        lambda: Encoder(norm_first=True, activation="gelu"), SEQUENCE, ENCODER, ENCODER_HEADS, statistics=True),
    "encoder_two_layers": Case(
        lambda: Encoder(2), SEQUENCE, ENCODER | {"body.layers.1.linear1.weight.0": 12}, ENCODER_HEADS,
        statistics=True,
    ),
    "decoder_layer": Case(
        Decoder, two_streams,
        {"embed.weight.0": 8, "memory.weight.0": 8, "body.linear1.weight.0": 12, "body.norm2.weight.0": 8},
        {"body.self_attn.in_proj_weight.0": 4, "body.multihead_attn.in_proj_weight.0": 4}, statistics=True,
    ),
    "vision_transformer": Case(
        VisionTransformer, normal(2, 3, 6, 6),
        {"patch.weight.0": 8, "token.2": 8, "position.2": 8, "scale1.0": 8, "up.weight.0": 16, "norm.weight.0": 8},
        {"attn.qkv.weight.0": 4, "attn.proj.weight.1": 4}, statistics=True,
    ),
    "windows": Case(
        lambda: Windows(literal=False), normal(2, 3, 6, 6), {"embed.weight.0": 8, "head.weight.1": 8},
        {"attn.qkv.weight.0": 4}, statistics=None,
    ),
    "windows_literal": Case(
        lambda: Windows(literal=True, shift=0), normal(2, 3, 6, 6), {"embed.weight.0": 8, "head.weight.1": 8},
        {"attn.qkv.weight.0": 4}, statistics=None,
    ),
    "patch_merging": Case(
        Merging, normal(2, 3, 6, 6),
        {"embed.weight.0": 6, "norm.weight.0": 6, "reduction.weight.1": 6, "reduction.weight.0": 12},
        footprint={"reduction.weight.1": [[c, c + 6, c + 12, c + 18] for c in range(6)]}, statistics=True,
    ),
    "spatial_mixer": Case(
        SpatialMixer, SEQUENCE,
        {
            "embed.weight.0": 8, "across.0.weight.0": 10, "across.2.weight.1": 10,
            "gate.weight.0": 6, "out.weight.1": 6,
        },
        footprint={"gate.weight.0": [[i, i + 6] for i in range(6)]},
    ),
    "state_space": Case(
        StateSpace, SEQUENCE,
        {
            "inside.weight.0": 8, "conv.weight.0": 8, "a.0": 8, "d.0": 8, "step.weight.0": 8, "out.weight.1": 8,
            "step.weight.1": 2, "a.1": 3, "dynamics.weight.0": (2, 3),
        },
        footprint={"inside.weight.0": [[i, i + 8] for i in range(8)]},
    ),
}  # fmt: skip
