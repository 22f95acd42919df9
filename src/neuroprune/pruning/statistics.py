"""One pass over the data: the statistics that criteria need, in memory that does not grow with the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation, gradients

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]


@dataclass
class Statistics:
    """``input_magnitude[weight name]``: mean |x_j|, broadcastable to the weight; ``gradient``: of its shape."""

    input_magnitude: dict[str, Tensor] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)


def channel_magnitude(module: nn.Module, x: Tensor) -> Tensor:
    """Mean of |x| per input channel, over samples and positions: [channels]. Unbatched inputs are allowed."""
    trailing = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    dim = x.dim() - trailing - 1
    others = [d for d in range(x.dim()) if d != dim]
    return x.abs().double().mean(others) if others else x.abs().double()


def broadcast_to_weight(module: nn.Module, per_channel: Tensor) -> Tensor:
    """Reshape [channels] so that it multiplies the weight of a linear or (grouped, transposed) convolution."""
    if not isinstance(module, _ConvNd):
        return per_channel
    kernel = (1,) * len(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):
        return per_channel.reshape(-1, 1, *kernel)  # weight: [in, out / groups, *kernel]
    by_group = per_channel.reshape(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
    return by_group.reshape(module.out_channels, -1, *kernel)


def track_activations(model: nn.Module, forward: Forward, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Mean |input| per weight of every linear and convolution, accumulated over ``batches`` by hooks."""
    sums: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def record(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        magnitude = channel_magnitude(module, args[0].detach())
        sums[name] = sums[name] + magnitude if name in sums else magnitude
        calls[name] = calls.get(name, 0) + 1

    tracked = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}
    hooks = [m.register_forward_pre_hook(lambda mod, a, n=n: record(n, mod, a)) for n, m in tracked.items()]
    try:
        with evaluation(model):
            for batch in batches:
                forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        f"{name}.weight" if name else "weight": broadcast_to_weight(tracked[name], total / calls[name]).float()
        for name, total in sums.items()
    }


def accumulate_gradients(
    model: nn.Module, forward: Forward, loss: Loss, batches: Iterable[Any]
) -> dict[str, Tensor]:
    """Sum over batches of d loss / d parameter, in evaluation mode; the parameters' own ``.grad`` is untouched.

    Frozen parameters have one too: what cannot be trained can still be cut. Raises UserError when there are no
    gradients, or one is not finite.
    """
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    with gradients(model, everywhere=True), evaluation(model), torch.enable_grad():
        for batch in batches:
            value = loss(batch, forward(model, batch))
            if not value.requires_grad:
                raise UserError(
                    "the loss does not depend on the parameters: the network computes without gradients",
                    where=type(model).__name__,
                    mend="take no_grad or inference_mode out of its forward, or use l1, l2 or activation",
                )
            found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
    for name, gradient in total.items():
        if not bool(gradient.isfinite().all()):
            raise UserError("a gradient is not finite", where=name, mend="check the data and the loss for NaN")
    return total
