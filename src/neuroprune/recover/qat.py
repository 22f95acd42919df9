"""Quantisation-aware training: weights and activations on the grid of integers while a network is trained.

Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
section 3; Krishnamoorthi 2018, "Quantizing deep convolutional networks", section 4: ranges and batch norm settle
before the weights do. Batch norm is not folded: a scale per output channel commutes with its factor, so the
integers of the folded kernel are those that were trained; its statistics stand still late in the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.recover.hooks import Hook, SharesGradients
from neuroprune.recover.on_grid import layers_with_weights, weights_on_grid

_SLOT = "input_range"


@dataclass(frozen=True)
class Quantization:
    """``bits``: of the weights (activations have 8). ``symmetric``: activations are int8 around zero, else uint8.
    ``momentum``: of the moving extremes. ``freeze``: the share of the steps after which ranges and batch-norm
    statistics stand still. ``clustered``: weights with one grid for the whole tensor, so that equal values stay
    equal. Raises UserError for values out of range."""

    bits: int = 8
    symmetric: bool = False
    momentum: float = 0.99
    freeze: float = 0.5
    clustered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.momentum < 1 and 0 < self.freeze <= 1):
            raise UserError(
                "moving extremes need a momentum below 1 and freeze at a share of the steps",
                value=f"momentum {self.momentum}, freeze {self.freeze}",
                mend="give 0 <= momentum < 1 and 0 < freeze <= 1",
            )


class InputRange(nn.Module):
    """Rounds to the integers that cover moving extremes; zero is one of them; no gradient outside."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, symmetric: bool, momentum: float, like: Tensor) -> None:
        super().__init__()
        self.symmetric, self.momentum, self.frozen = symmetric, momentum, False
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros((), device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            self._follow(x.detach())
        if not x.is_floating_point() or not self.seen:
            return x
        scale, zero, bottom, top = self._grid()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, bottom, top)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        if not x.numel() or not x.is_floating_point():
            return
        low, high = (end.float() for end in torch.aminmax(x))
        keep = self.momentum if self.seen else 0.0
        self.low.mul_(keep).add_(low.clamp_max(0), alpha=1 - keep)
        self.high.mul_(keep).add_(high.clamp_min(0), alpha=1 - keep)
        self.seen.fill_(1)

    def _grid(self) -> tuple[Tensor, Tensor, int, int]:
        tiny = torch.finfo(torch.float32).tiny
        if self.symmetric:
            scale = (torch.maximum(-self.low, self.high) / 127).clamp_min(tiny)
            return scale, torch.zeros_like(scale, dtype=torch.int32), -127, 127
        scale = ((self.high - self.low) / 255).clamp_min(tiny)
        return scale, (-self.low / scale).round().clamp(0, 255).to(torch.int32), 0, 255


class Quantized(Hook):
    """A network under `quantized`: the hook for `fit`, and the ranges that were learned.

    ``others``: hooks that run before it, in their order (masks that tighten, held clusters).
    """

    def __init__(self, model: nn.Module, config: Quantization, others: Sequence[Hook] = ()) -> None:
        self.config, self.others = config, tuple(others)
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.ranges: dict[str, InputRange] = {}
        self.frozen = False

    @property
    def goes_back(self) -> bool:
        """Ranges and batch-norm statistics stand still in the end, but were other ones in earlier epochs."""
        return False

    def learned(self) -> dict[str, tuple[float, float]]:
        """Range of each layer's input by the layer's name; of layers that ran."""
        return {n: (float(r.low), float(r.high)) for n, r in self.ranges.items() if r.seen}

    def start(self, steps: int) -> None:
        for hook in self.others:
            hook.start(steps)

    def after_backward(self) -> None:
        """For hooks that change gradients."""
        for hook in self.others:
            if isinstance(hook, SharesGradients):
                hook.after_backward()

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        for hook in self.others:
            hook.after_step(optimizer, step, steps)
        self._freeze(step >= self.config.freeze * steps)

    def _freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        for one in self.ranges.values():
            one.frozen = frozen

    def state(self) -> dict[str, Tensor]:
        own = {"frozen": torch.tensor(self.frozen)}
        return own | {f"{i}/{k}": v for i, hook in enumerate(self.others) for k, v in hook.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._freeze(bool(state["frozen"]))
        for i, hook in enumerate(self.others):
            mine = f"{i}/"
            hook.load_state({k.removeprefix(mine): v for k, v in state.items() if k.startswith(mine)})

    def identity(self) -> str:
        return f"quantised {self.config} {[hook.identity() for hook in self.others]}"


@contextmanager
def quantized(
    model: nn.Module, config: Quantization | None = None, *, hooks: Sequence[Hook] = ()
) -> Iterator[Quantized]:
    """Within it, linear layers and convolutions compute with weights and inputs on integers' grids; after it the
    weights are those, and the layers are as they were.

    >>> with quantized(model) as hook:                                                    # doctest: +SKIP
    ...     fit(model, task, config, hook=hook, after_step=masks.apply)
    >>> hook.learned()                                                                    # doctest: +SKIP

    ``hooks``: what else changes the network as it trains; made before, for the parameters have other names here.
    Masks (`pruning.Masks`), made before, go on working. Raises UserError for weights of less than 2 or more than 8
    bits, and where there is no layer.
    """
    config = config or Quantization()
    layers = layers_with_weights(model)
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no linear layer and no convolution to train on integers",
            where=f"model {type(model).__name__}",
            mend="leave quantisation-aware training out",
        )
    hook = Quantized(model, config, hooks)
    with weights_on_grid(model, config.bits, whole=config.clustered), _watching(layers, hook):
        yield hook


@contextmanager
def _watching(layers: Mapping[str, nn.Module], hook: Quantized) -> Iterator[None]:
    handles = []
    try:
        for name, layer in layers.items():
            weight: Any = layer.weight
            one = InputRange(hook.config.symmetric, hook.config.momentum, weight)
            one.train(layer.training)
            layer.add_module(_SLOT, one)
            hook.ranges[name] = one
            handles.append(layer.register_forward_pre_hook(_round_input))
        for norm in hook.norms:
            handles.append(norm.register_forward_pre_hook(lambda module, _: _hold_statistics(module, hook)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers.values():
            layer._modules.pop(_SLOT, None)


def _round_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not inputs or not isinstance(inputs[0], Tensor):
        return inputs
    return layer._modules[_SLOT](inputs[0]), *inputs[1:]  # type: ignore[misc]


def _hold_statistics(norm: nn.Module, hook: Quantized) -> None:
    if hook.frozen:
        norm.training = False  # `fit` puts the mode back
