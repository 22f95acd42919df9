"""Weights on the grid of an integer type while they are trained: the masks' part of quantisation-aware
training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from neuroprune.base.errors import UserError


class OnGrid(nn.Module):
    """Symmetric fake quantisation per output channel; the gradient passes through (Jacob et al. 2018, section 3).

    ``dim``: of the output channels. Zero is on the grid, so what a mask has put there stays there.
    """

    def __init__(self, bits: int, dim: int) -> None:
        super().__init__()
        self.bits, self.dim = bits, dim

    def forward(self, weight: Tensor) -> Tensor:
        top = 2 ** (self.bits - 1) - 1
        others = [d for d in range(weight.dim()) if d != self.dim]
        scale = (weight.detach().abs().amax(others) / top).clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale.float(), zeros, self.dim, -top, top)


@contextmanager
def weights_on_grid(model: nn.Module, bits: int = 8) -> Iterator[None]:
    """Within it, linear layers and convolutions compute with weights of ``bits`` bits; after it they are those.

    Raises UserError for less than 2 or more than 8 bits. Masks of `pruning.Masks`, made before, go on working.
    """
    if not 2 <= bits <= 8:
        raise UserError("weights take 2 to 8 bits here", value=bits, mend="give bits=8")
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd))}
    for layer in layers.values():
        dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
        parametrize.register_parametrization(layer, "weight", OnGrid(bits, dim))
    try:
        yield
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
