"""Weights on the grid of an integer type while they are trained: the masks' part of quantisation-aware
training."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from neuroprune.base.errors import UserError


class OnGrid(nn.Module):
    """Symmetric fake quantisation per output channel; the gradient passes through (Jacob et al. 2018, section 3).

    ``dim``: of the output channels, None for one scale for all. Zero is on the grid, so what a mask has put there
    stays there.
    """

    def __init__(self, bits: int, dim: int | None) -> None:
        super().__init__()
        self.bits, self.dim = bits, dim

    def forward(self, weight: Tensor) -> Tensor:
        top = 2 ** (self.bits - 1) - 1
        others = [d for d in range(weight.dim()) if d != self.dim]
        scale = (weight.detach().abs().amax(others) / top).clamp_min(torch.finfo(torch.float32).tiny).float()
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        if self.dim is None:
            return torch.fake_quantize_per_tensor_affine(weight, scale, zeros, -top, top)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, self.dim, -top, top)


def layers_with_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name; layers that share a weight are one."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            found.setdefault(id(module.weight), (name, module))
    return dict(found.values())


@contextmanager
def weights_on_grid(model: nn.Module, bits: int = 8, whole: Collection[str] = ()) -> Iterator[None]:
    """Within it, linear layers and convolutions compute with weights of ``bits`` bits; after it they are those.

    ``whole``: names of weights that have one scale for the tensor (clustered ones: equal values stay equal).
    Raises UserError for less than 2 or more than 8 bits, and for a name that is no such weight. Masks of
    `pruning.Masks`, made before, go on working.
    """
    if not 2 <= bits <= 8:
        raise UserError("weights take 2 to 8 bits here", value=bits, mend="give bits=8")
    layers = layers_with_weights(model)
    names = [f"{name}.weight".removeprefix(".") for name in layers]
    for one in whole:
        if one not in names:
            raise UserError(
                "this is no weight of a linear layer or convolution",
                where=one,
                mend=f"weights: {', '.join(names)}",
            )
    for name, layer in zip(names, layers.values(), strict=True):
        dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
        parametrize.register_parametrization(layer, "weight", OnGrid(bits, None if name in whole else dim))
    try:
        yield
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
