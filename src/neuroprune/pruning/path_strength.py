"""Strength of the paths through a network, without data (SynFlow), for any network that runs.

The strength of a path is the product of |w| along it, and R the sum over all paths that start at an input or a
bias and end at an output. R is computed as the sum of the outputs of a copy of the network, in float64: parameters
and buffers at their absolute values, floating inputs at one (token numbers stay), and what is no sum of weighted
values replaced. Activation functions, of whatever sign and shape, and softmax become max(x, 0), which passes what
is not negative and gives no strength to a masked place; those with bounded values, which often multiply others as
gates, divide that by its mean, or the degree of R would double with every gate. A batch norm multiplies by
|gamma| / sqrt(variance + eps) and adds |beta|; layer, group, instance and RMS norms multiply by |gamma| and add
|beta|. Fused attention stays itself: an average of values. Norms and activations that a model writes out with
arithmetic are followed as they are written.
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
_BOUNDED = {"hardsigmoid", "hardtanh", "relu6", "sigmoid", "softmax", "softmin", "softsign", "tanh"}
_NONLINEAR = _BOUNDED | {
    "celu", "clamp", "clip", "elu", "gelu", "hardshrink", "hardswish", "leaky_relu", "log_softmax", "logsigmoid",
    "mish", "prelu", "rrelu", "selu", "silu", "softplus", "softshrink", "tanhshrink", "threshold",
}  # fmt: skip
#: their arguments after the input, as operators have them; two functions have another order
_NORMS: dict[Any, tuple[str, ...]] = {
    "batch_norm": ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    "instance_norm": ("weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps"),
    "group_norm": ("num_groups", "weight", "bias", "eps"),
    "layer_norm": ("normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("normalized_shape", "weight", "eps"),
    F.batch_norm: ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    F.instance_norm: ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
}


def path_gradients(
    model: nn.Module, forward: Callable[[nn.Module, Any], Any], batch: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """d R / d |w| by parameter name, and d R / d w^2 of the network of squared weights; ``batch``: for its shape.

    Raises UserError when R is not finite, or depends on no parameter.
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
    seen = [gradient for gradient in found if gradient is not None]
    if not bool(strength.isfinite()) or not all(bool(gradient.isfinite().all()) for gradient in seen):
        raise UserError("the strength of the paths is not finite", mend="use another criterion for this network")
    if not any(bool(gradient.any()) for gradient in seen):
        raise UserError("no path leads from the parameters to the outputs", mend="use another criterion")
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(named.items(), found, strict=True)
    }


def _positive(clamp: Callable[..., Tensor], bounded: bool) -> Tensor:
    """max(x, 0), over its mean where the function's values are bounded; ``clamp``: of x, perhaps in place."""
    positive = clamp(min=0)
    mean = float(positive.detach().mean()) if bounded else 1.0
    return positive.mul_(1 / mean) if mean > 0 else positive


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
        name = getattr(func, "_opname", getattr(func, "__name__", ""))  # the first: of an exported graph
        norm = _NORMS.get(func, _NORMS.get(name))
        if norm is not None:
            return self._scale(name, **dict(zip(("input", *norm), args, strict=False)), **kwargs)
        if name.rstrip("_") in _NONLINEAR:
            x = args[0] if args else kwargs["input"]
            return _positive(x.clamp_ if name.endswith("_") else x.clamp, name.rstrip("_") in _BOUNDED)
        return func(*args, **kwargs)

    def _scale(self, norm: str, *, input: Tensor, **given: Any) -> Tensor:
        """``input`` times the norm's weight plus its bias, along the dimension of the channels."""
        shape = [1, -1, *[1] * (input.dim() - 2)]
        if norm in ("layer_norm", "rms_norm"):
            shape = list(input.shape[-len(given["normalized_shape"]) :])
        if norm == "batch_norm" and given.get("running_var") is not None:
            # taken to the power with all buffers, and eps belongs to what it was before
            variance = given["running_var"] ** (1 / self.power) + given.get("eps", 1e-5)
            input = input * variance.pow(-self.power / 2).reshape(shape)
        if given.get("weight") is not None:
            input = input * given["weight"].reshape(shape)
        return input if given.get("bias") is None else input + given["bias"].reshape(shape)
