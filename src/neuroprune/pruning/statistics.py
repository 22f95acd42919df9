"""One pass over the data: the statistics that criteria need, in memory that does not grow with the samples.

What is held at a time: sums of the size of the weights (second moments: columns x columns per layer), one batch,
and of the inputs that meet a convolution's kernel a portion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation, gradients
from neuroprune.graph.trace import Trace
from neuroprune.pruning.attention_inputs import AttentionSums
from neuroprune.pruning.criteria import Need
from neuroprune.pruning.design import inputs_of
from neuroprune.pruning.loss_change import LossChanges
from neuroprune.pruning.path_strength import path_gradients

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]

#: inputs of one layer, at all kernel positions, that are held in float64 at once (32 MB; one example at the least)
_PORTION = 1 << 22


@dataclass
class Statistics:
    """By the parameter's name what `WeightView` holds of it; ``loss_change``: by the group's name [units]."""

    input_magnitude: dict[str, Tensor] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    input_norm: dict[str, Tensor] = field(default_factory=dict)
    input_active: dict[str, Tensor] = field(default_factory=dict)
    path_gradient: dict[str, Tensor] = field(default_factory=dict)
    squared_path_gradient: dict[str, Tensor] = field(default_factory=dict)
    hessian: dict[str, Tensor] = field(default_factory=dict)
    loss_change: dict[str, Tensor] = field(default_factory=dict)


def collect(
    model: nn.Module,
    needs: Collection[Need],
    batches: Iterable[Any],
    forward: Forward,
    loss: Loss | None = None,
    trace: Trace | None = None,
) -> Statistics:
    """What ``needs`` names, from one pass over ``batches`` in evaluation mode; ``model`` and its ``.grad`` stay.

    ``loss`` is required by ``gradients``, ``trace`` by ``loss``. Raises UserError when there is no batch, or a
    gradient is not finite.
    """
    statistics, batches = Statistics(), iter(batches)
    first = next(batches, None)
    if first is None:
        raise UserError("there is no batch to take statistics from", mend="give batches that are not empty")
    if "paths" in needs:  # the same for all inputs of this shape
        statistics.path_gradient, statistics.squared_path_gradient = path_gradients(model, forward, first)
    if set(needs) <= {"paths"}:
        return statistics
    batches, first = itertools.chain([first], batches), None
    inputs = InputSums(model, {"activations", "hessian"} & set(needs))
    attention = AttentionSums(model) if "activations" in needs else None
    slopes = GradientSums(model) if "gradients" in needs else None
    changes = LossChanges(model, trace, forward, loss) if "loss" in needs and trace is not None else None
    with ExitStack() as stack:  # copies of the model were made above: they must not have the hooks
        stack.enter_context(inputs.hooked())
        if attention is not None:
            stack.enter_context(attention.hooked())
        if slopes is not None:
            stack.enter_context(gradients(model, everywhere=True))
        stack.enter_context(evaluation(model))
        stack.enter_context(torch.set_grad_enabled(slopes is not None))
        for batch in batches:
            output = forward(model, batch)
            if slopes is not None and loss is not None:
                slopes.add(loss(batch, output))
            if changes is not None:
                changes.add(batch, output)
    inputs.write(statistics)
    if attention is not None:
        attention.write(statistics)
    statistics.gradient = slopes.checked() if slopes is not None else {}
    statistics.loss_change = changes.means() if changes is not None else {}
    return statistics


def track_activations(model: nn.Module, forward: Forward, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Mean |input| per weight of every linear layer and convolution, over ``batches``."""
    return collect(model, {"activations"}, batches, forward).input_magnitude


class GradientSums:
    """Sum over batches of d loss / d parameter; frozen ones have one too: what cannot be trained can be cut."""

    def __init__(self, model: nn.Module) -> None:
        self.named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        self.total = {name: torch.zeros_like(p) for name, p in self.named.items()}

    def add(self, value: Tensor) -> None:
        """Raises UserError where the network computes without gradients."""
        if not value.requires_grad:
            raise UserError(
                "the loss does not depend on the parameters: the network computes without gradients",
                mend="take no_grad or inference_mode out of its forward, or use l1, l2 or activation",
            )
        found = torch.autograd.grad(value, list(self.named.values()), allow_unused=True)
        for total, gradient in zip(self.total.values(), found, strict=True):
            if gradient is not None:
                total += gradient

    def checked(self) -> dict[str, Tensor]:
        for name, gradient in self.total.items():
            if not bool(gradient.isfinite().all()):
                raise UserError("a gradient is not finite", where=name, mend="check the data and the loss for NaN")
        return self.total


class InputSums:
    """Sums over what enters each linear layer and convolution, by the name of its weight: layers that share a
    weight share the sums. Functions that are called without a module are not seen, but for those of attention
    (`attention_inputs`)."""

    def __init__(self, model: nn.Module, needs: Collection[str]) -> None:
        self.model, self.needs = model, needs
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.modules: dict[str, nn.Module] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.hessian: dict[str, Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watching."""
        hooks = [
            module.register_forward_pre_hook(self._record, with_kwargs=True)
            for module in (self.model.modules() if self.needs else ())
            if isinstance(module, (nn.Linear, _ConvNd)) and id(module._parameters.get("weight")) in self.names
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = self.names[id(module.weight)]
        self.modules.setdefault(name, module)
        x = _batched(module, (args[0] if args else kwargs["input"]).detach())
        if "activations" in self.needs:
            sums = channel_sums(module, x)
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums
            self.counts[name] = self.counts.get(name, 0) + x.numel() // sums.shape[1]
        if "hessian" in self.needs and not isinstance(module, _ConvTransposeNd):
            self.hessian[name] = add_second_moments(self.hessian.get(name), module, x)

    def write(self, statistics: Statistics) -> None:
        for name, (magnitude, squares, active) in self.sums.items():
            module, count = self.modules[name], self.counts[name]
            statistics.input_magnitude[name] = broadcast_to_weight(module, magnitude / count).float()
            statistics.input_norm[name] = broadcast_to_weight(module, squares.sqrt()).float()
            statistics.input_active[name] = broadcast_to_weight(module, active / count).float()
        statistics.hessian = self.hessian


def _batched(module: nn.Module, x: Tensor) -> Tensor:
    """Unbatched inputs are allowed."""
    trailing = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    return x[None] if x.dim() == trailing + 1 else x


def channel_sums(module: nn.Module, x: Tensor) -> Tensor:
    """Sums of |x|, x^2 and of how many are not zero, per input channel: float64 [3, channels]."""
    channels = 1 if isinstance(module, _ConvNd) else x.dim() - 1
    positions = [d for d in range(1, x.dim()) if d != channels]
    x = x if x.dtype is torch.float64 else x.float()  # half precision cannot hold the sums

    def total(values: Tensor) -> Tensor:  # one example's sums in x's own precision: ten times faster
        return (values.sum(positions) if positions else values).double().sum(0)

    return torch.stack([total(x.abs()), total(x.square()), total((x != 0).to(x.dtype))])


def broadcast_to_weight(module: nn.Module, per_channel: Tensor) -> Tensor:
    """Reshape [channels] so that it multiplies the weight of a linear or (grouped, transposed) convolution."""
    if not isinstance(module, _ConvNd):
        return per_channel
    kernel = (1,) * len(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):
        return per_channel.reshape(-1, 1, *kernel)  # weight: [in, out / groups, *kernel]
    by_group = per_channel.reshape(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
    return by_group.reshape(module.out_channels, -1, *kernel)


def add_second_moments(total: Tensor | None, module: nn.Module, x: Tensor) -> Tensor:
    """``total`` plus the sum of z z^T over the rows z that meet the layer's weight (`WeightView.hessian`)."""
    if not isinstance(module, _ConvNd):
        x = x.flatten(0, -2)  # all positions are rows: portions of them, not of examples
    each = x[0].numel() * (module.weight[0, 0].numel() if isinstance(module, _ConvNd) else 1)
    for portion in torch.split(x, max(1, _PORTION // max(each, 1))):
        rows = inputs_of(module, portion.double(), None)
        if module.bias is not None:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        moments = rows @ rows.transpose(1, 2)
        total = moments if total is None else total.add_(moments)
    assert total is not None
    return total
