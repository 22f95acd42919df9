"""Strength of the paths through a network, without data (SynFlow), for any network that runs.

The strength of a path is the product of |w| along it, and R the sum over all paths that start at an input or a
bias and end at an output. R is computed as the sum of the outputs of a copy of the network, in float64: parameters
and buffers at their absolute values, floating inputs at one (token numbers stay), and what is no sum of weighted
values replaced. Activation functions, of whatever sign and shape, and softmax become max(x, 0), which passes what
is not negative and gives no strength to a masked place; a batch norm multiplies by |gamma| / sqrt(variance + eps)
and adds |beta|; layer, group, instance and RMS norms multiply by |gamma| and add |beta|. Fused attention stays
itself: an average of values. Norms and activations that a model writes out with arithmetic are followed as they
are written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of, in_float64
from neuroprune.graph.calls import map_tensors, tensors_in

#: by the function's name, in-place variants included
_NONLINEAR = {
    "celu", "clamp", "clip", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "log_softmax", "logsigmoid", "mish", "prelu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softmax",
    "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
}  # fmt: skip
_LAST = {F.layer_norm, F.rms_norm}
_SECOND = {F.batch_norm, F.instance_norm, F.group_norm}


def path_gradients(
    model: nn.Module, forward: Callable[[nn.Module, Any], Any], batch: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """d R / d |w| by parameter name, and d R / d w^2 of the network of squared weights; ``batch``: for its shape.

    Raises UserError when R is not finite.
    """
    return _gradients(model, forward, batch, 1), _gradients(model, forward, batch, 2)


def _gradients(
    model: nn.Module, forward: Callable[[nn.Module, Any], Any], batch: Any, power: int
) -> dict[str, Tensor]:
    linear = copy_of(model).double().eval()
    with torch.no_grad():
        for tensor in (*linear.parameters(), *(b for b in linear.buffers() if b.is_floating_point())):
            tensor.copy_(tensor.abs() ** power)
    named = {name: p.requires_grad_() for name, p in linear.named_parameters() if p.is_floating_point()}
    linear.register_forward_pre_hook(lambda _, args, kwargs: map_tensors(_ones, (args, kwargs)), with_kwargs=True)
    with torch.enable_grad(), in_float64(), _Linear(power):
        outputs = [t for t in tensors_in(forward(linear, batch)) if t.requires_grad]
        strength = torch.stack([t.sum() for t in outputs]).sum()
    found = torch.autograd.grad(strength, list(named.values()), allow_unused=True)
    if not bool(strength.isfinite()) or not all(bool(g.isfinite().all()) for g in found if g is not None):
        raise UserError("the strength of the paths is not finite", mend="use another criterion for this network")
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(named.items(), found, strict=True)
    }


def _ones(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.float64) if x.is_floating_point() else x


class _Linear(TorchFunctionMode):
    """Activation functions become max(x, 0), norms their scale; ``power``: that the weights were taken to."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func in _SECOND or func in _LAST:
            return self._scale(func, *args, **kwargs)
        if name.rstrip("_") in _NONLINEAR:
            x = args[0] if args else kwargs["input"]
            return x.clamp_(min=0) if name.endswith("_") else x.clamp(min=0)
        return func(*args, **kwargs)

    def _scale(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``input`` times the norm's weight plus its bias, along the dimension of the channels."""
        taken = dict(zip(_ARGUMENTS[func], args, strict=False)) | kwargs
        shape = (
            [1, -1, *[1] * (input.dim() - 2)]
            if func in _SECOND
            else input.shape[-len(taken["normalized_shape"]) :]
        )
        if func is F.batch_norm and taken.get("running_var") is not None:
            # the buffers were taken to the power as well: (var + eps) is not what a square root of them would give
            variance = taken["running_var"] ** (1 / self.power) + taken.get("eps", 1e-5)
            input = input * variance.pow(-self.power / 2).reshape(shape)
        if taken.get("weight") is not None:
            input = input * taken["weight"].reshape(shape)
        return input if taken.get("bias") is None else input + taken["bias"].reshape(shape)


_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    F.instance_norm: ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    F.group_norm: ("num_groups", "weight", "bias", "eps"),
    F.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("normalized_shape", "weight", "eps"),
}
