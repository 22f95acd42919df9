"""Parametrisations, parameters used more than once, frozen, bare or in lists; buffers of every kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, ROWS, SEQUENCE, Case, tokens
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


def weighted(first: nn.Module, second: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, nn.ReLU(), second)


class Positive(nn.Module):
    """A parametrisation: softplus of what is stored."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


def positive(layer: nn.Linear) -> nn.Linear:
    parametrize.register_parametrization(layer, "weight", Positive())
    return layer


class LowRank(nn.Module):
    """LoRA: a frozen matrix and two thin trained ones; the rank is a width as well."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.base(x) + x @ self.a.T @ self.b.T).relu())


class SharedWeight(nn.Module):
    """Two modules hold the same parameter, with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(16, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(x), self.b(x.flip(0))], dim=1))


class SharedModule(nn.Module):
    """One block, registered under two names and called under both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        block = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8))
        self.left, self.right, self.out = block, nn.ModuleList([block]), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.out(self.right[0](x + self.left(x)))


class Siamese(nn.Module):
    """One encoder over two inputs, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))
        self.out = nn.Linear(12, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = self.encoder(left), self.encoder(right)
        return self.out(torch.cat([(left - right).abs(), left * right], dim=1))


class Autoencoder(nn.Module):
    """The decoder is the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.bias = nn.Linear(3, 8), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encode(x).relu(), self.encode.weight.t(), self.bias)


class RecursiveDepth(nn.Module):
    """One layer applied as many times as an attribute says: that number is no width and stays."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 3
        self.first, self.again, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.steps):
            x = x + self.again(x).relu()
        return self.out(x)


class Lists(nn.Module):
    """Parameters in a ParameterList and a ParameterDict; one is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ParameterList([torch.randn(3, 8), torch.randn(8, 6)])
        self.extra = nn.ParameterDict({"bias": torch.randn(6), "scale": torch.rand(8)})
        self.unused, self.out = nn.Linear(8, 8), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (x @ self.steps[0]) * self.extra["scale"]
        return self.out((x.relu() @ self.steps[1] + self.extra["bias"]).relu())


class Buffers(nn.Module):
    """Buffers per channel: persistent, not persistent, with ones around them, and an unused counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("running_scale", torch.rand(8) + 0.5)
        self.register_buffer("shift", torch.randn(1, 8, 1, 1), persistent=False)
        self.register_buffer("gates", torch.tensor([True, False] * 4))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.running_scale.view(-1, 1, 1) + self.shift
        return self.out(x * self.gates[None, :, None, None])


class Quantised(nn.Module):
    """Codebook attention: tokens are replaced by soft mixtures of the entries of a buffer [entries, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("codebook", torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out((x @ self.codebook.t()).softmax(-1) @ self.codebook)


class Gated(nn.Module):
    """nn.Bilinear, nn.PReLU per channel, nn.GLU and nn.Identity between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(3, 6), nn.Linear(3, 5), nn.Bilinear(6, 5, 8)
        self.glu, self.prelu, self.skip, self.out = nn.GLU(), nn.PReLU(4), nn.Identity(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.prelu(self.glu(self.mix(self.a(x), self.b(x)))) + self.skip(0))


class TiedHead(nn.Module):
    """A language model: embedding and head are one matrix, and the head has a scale and a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(11, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.mix(x)[0])


NORMED = {"0.bias.0": 8, "0.parametrizations.weight.original0.0": 8, "0.parametrizations.weight.original1.0": 8}
SPECTRAL = {"0.parametrizations.weight.original.0": 8, "0.parametrizations.weight.0._u.0": 8}

SHARING = {
    "weight_norm": Case(
        lambda: weighted(parametrizations.weight_norm(nn.Linear(3, 8)), nn.Linear(8, 2)), ROWS,
        NORMED | {"2.weight.1": 8}, statistics=None,
    ),
    "weight_norm_of_a_reader": Case(
        lambda: weighted(nn.Conv2d(3, 8, 1), parametrizations.weight_norm(nn.Conv2d(8, 4, 3), dim=0)), IMAGE,
        {"0.weight.0": 8, "2.parametrizations.weight.original1.1": 8}, statistics=None,
    ),
    "spectral_norm": Case(
        lambda: weighted(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 2, 1)), IMAGE,
        SPECTRAL | {"2.weight.1": 8}, statistics=None,
    ),
    "spectral_norm_of_a_reader": Case(
        lambda: weighted(nn.Conv2d(3, 8, 1), parametrizations.spectral_norm(nn.Conv2d(8, 4, 3))), IMAGE,
        {
            "0.weight.0": 8, "2.parametrizations.weight.original.1": 8,
            "2.parametrizations.weight.0._v.0": 8,
        }, statistics=None,
    ),
    # softplus(0) is not 0: only masking shows that this is exact
    "own_parametrisation": Case(
        lambda: weighted(positive(nn.Linear(3, 8)), positive(nn.Linear(8, 2))), ROWS,
        {"0.parametrizations.weight.original.0": 8, "2.parametrizations.weight.original.1": 8}, statistics=None,
    ),
    "low_rank": Case(LowRank, ROWS, {"base.weight.0": 8, "b.0": 8, "a.0": 4, "b.1": 4, "out.weight.1": 8}),
    "shared_weight": Case(
        SharedWeight, ROWS, {"a.weight.0": 8, "a.bias.0": 8, "b.bias.0": 8, "out.weight.1": 8},
        footprint={"out.weight.1": [[i, i + 8] for i in range(8)]},
    ),
    "shared_module": Case(
        SharedModule, ROWS,
        {"first.weight.0": 8, "left.0.weight.1": 8, "left.2.weight.0": 8, "left.0.weight.0": 5, "out.weight.1": 8},
    ),
    "siamese": Case(
        Siamese, lambda: (torch.randn(4, 3), torch.randn(4, 3)),
        {"encoder.0.weight.0": 8, "encoder.2.weight.0": 6},
        footprint={"out.weight.1": [[i, i + 6] for i in range(6)]},
    ),
    "transposed_twin": Case(
        Autoencoder, ROWS, {"encode.weight.0": 8, "encode.bias.0": 8}, stays=("encode.weight.1", "bias.0")),
    "applied_by_count": Case(
        RecursiveDepth, ROWS, {"first.weight.0": 8, "again.weight.0": 8, "again.weight.1": 8, "out.weight.1": 8}),
    "parameter_lists": Case(
        Lists, ROWS,
        {"steps.0.1": 8, "steps.1.0": 8, "steps.1.1": 6, "extra.bias.0": 6, "extra.scale.0": 8},
        stays=("unused.weight.0", "unused.weight.1"),
    ),
    "buffers": Case(
        Buffers, IMAGE, {"conv.weight.0": 8, "running_scale.0": 8, "shift.1": 8, "gates.0": 8, "out.weight.1": 8}),
    # the entries may go as well: their softmax is a statistic
    "codebook": Case(
        Quantised, SEQUENCE, {"embed.weight.0": 8, "codebook.1": 8, "out.weight.1": 8}, statistics=None),
    "bilinear_glu_prelu": Case(
        Gated, ROWS,
        {
            "a.weight.0": 6, "mix.weight.1": 6, "b.weight.0": 5, "mix.weight.2": 5,
            "mix.weight.0": 4, "prelu.weight.0": 4,
        },
    ),
    "tied_language_model": Case(
        TiedHead, tokens(2, 5),
        {"embed.weight.1": 8, "mix.weight_ih_l0.1": 8, "mix.weight_ih_l0.0": 8, "mix.weight_hh_l0.1": 8},
        stays=("embed.weight.0", "head.bias.0"),
    ),
}  # fmt: skip
