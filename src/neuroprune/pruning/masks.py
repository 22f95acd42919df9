"""Masks: parts switched off but still there, so that pruning can be tried, undone, and cut when it is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.graph.trace import Trace
from neuroprune.pruning.select_weights import Spread, select_weights
from neuroprune.pruning.tensors import named_tensors

Granularity = Literal["filter", "weight"]


#: of the same size as a number of so many bytes
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Hold:
    """Masks in force until ``remove``, or until the end of a ``with``."""

    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@dataclass(frozen=True)
class _Bits:
    """``bits`` of ``mask`` as it was: its version, and where and what the masked tensor is."""

    mask: Tensor
    made_of: tuple[int, torch.device, torch.dtype]
    bits: Tensor


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, one) or fnmatch(name.rpartition(".")[0], one) for one in patterns)


class Masks:
    """One binary mask per tensor; ``hold`` keeps what is off at exactly zero in any training loop.

    ``granularity="filter"`` switches whole units (every tensor a unit appears in), so that a later cut equals
    the masked network; ``"weight"`` switches single weights of matrices and kernels. The original values are
    kept, so ``undo`` gives the dense weights back bit for bit.
    """

    def __init__(self, model: nn.Module, granularity: Granularity, masks: dict[str, Tensor]) -> None:
        self.model, self.granularity, self.masks = model, granularity, masks
        self.off: dict[str, tuple[int, ...]] = {}  # group -> units that are off (granularity "filter")
        self._tensors = {name: tensor for name, tensor in named_tensors(model).items() if name in masks}
        paths = {name: name.rpartition(".") for name in masks}
        self._places = {name: (model.get_submodule(owner), key) for name, (owner, _, key) in paths.items()}
        self._bits: dict[str, _Bits] = {}
        self.original = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}

    @classmethod
    def for_units(cls, model: nn.Module, trace: Trace) -> Masks:
        """Masks of ones over every parameter that a unit of ``trace`` touches."""
        touched = {part.tensor for group in trace.groups for part in group.slices}
        parameters = dict(model.named_parameters())
        return cls(model, "filter", {n: torch.ones_like(p) for n, p in parameters.items() if n in touched})

    @classmethod
    def for_weights(cls, model: nn.Module, keep: Sequence[str] = ()) -> Masks:
        """Masks of ones over every weight matrix and kernel (two dimensions or more).

        ``keep``: patterns of tensors or modules that get none. Raises UserError for one that matches nothing.
        """
        names = [name for name, p in model.named_parameters() if p.dim() >= 2]
        for one in keep:
            if not any(_matches(name, [one]) for name in names):
                guess = nearest(one, names)
                raise UserError(
                    f"keep={one!r} matches no weight",
                    mend=(f"did you mean {guess!r}? " if guess else "") + f"weights: {', '.join(names)}",
                )
        parameters = dict(model.named_parameters())
        chosen = [name for name in names if not _matches(name, keep)]
        return cls(model, "weight", {name: torch.ones_like(parameters[name]) for name in chosen})

    def switch_units(self, trace: Trace, removed: Mapping[str, tuple[int, ...]]) -> None:
        """Switch off exactly ``removed[group]`` units of each group (all others on) and apply."""
        for mask in self.masks.values():
            mask.fill_(1)
        for group in trace.groups:
            units = list(removed.get(group.name, ()))
            for part in group.slices:
                if units and part.tensor in self.masks:
                    self.masks[part.tensor].index_fill_(
                        part.dim, torch.from_numpy(np.unique(part.indices[units])), 0
                    )
        self.off = {name: tuple(units) for name, units in removed.items() if units}
        self.apply()

    def switch_weights(
        self,
        saliency: Mapping[str, Tensor],
        fraction: float,
        *,
        shape: str = "weight",
        spread: Spread = "normalised",
    ) -> tuple[str, ...]:
        """Switch off the ``fraction`` of weights with the lowest saliency, in the blocks of ``shape`` and spread
        over the layers as `select_weights` says (by default normalised per layer: S1); apply.

        Returns the tensors that would have been emptied, of which one block stays. Raises UserError as
        `select_weights`.
        """
        found = {name: saliency[name] for name in self.masks if name in saliency}
        selection = select_weights(found, fraction, shape=shape, spread=spread)
        for name, mask in selection.masks.items():
            self.masks[name] = mask.to(self.masks[name].dtype)
        self.apply()
        return selection.spared

    def hold(self, optimizer: torch.optim.Optimizer) -> Hold:
        """``apply`` after every step of ``optimizer`` and every ``load_state_dict`` of the model.

        >>> with masks.hold(optimizer):                                                   # doctest: +SKIP
        ...     train(model, optimizer)

        The loop may accumulate gradients, scale them, or compute in mixed precision: what counts is the step.
        """
        loaded = self.model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, keys: self.apply()
        )
        return Hold([optimizer.register_step_post_hook(lambda *_: self.apply()), loaded])

    @torch.no_grad()
    def apply(self) -> None:
        """Set everything that is off to zero in the model's own tensors, whatever it is now."""
        for name, tensor in self.parameters().items():
            bits = self._bits_of(name, tensor)
            tensor.detach().view(bits.dtype).bitwise_and_(bits)

    def _bits_of(self, name: str, tensor: Tensor) -> Tensor:
        """All bits set where the mask is on, none where it is off: what goes through them is plus zero, never
        minus zero or NaN, and it is many times faster than ``masked_fill_``."""
        mask, known = self.masks[name], self._bits.get(name)
        made_of = (mask._version, tensor.device, tensor.dtype)
        if known is None or known.mask is not mask or known.made_of != made_of:
            bits = -(mask != 0).to(tensor.device, _INTEGERS[tensor.element_size()])
            self._bits[name] = known = _Bits(mask, made_of, bits)
        return known.bits

    def parameters(self) -> dict[str, Tensor]:
        """The model's own tensors that are masked, as they are now, by the names of the masks.

        Loading may put other tensors in their places; a parametrisation (fake quantisation) gives other names
        to the same ones."""
        found = {}
        for name, tensor in self._tensors.items():
            module, key = self._places[name]
            now = module._parameters.get(key, module._buffers.get(key))
            found[name] = tensor if now is None else now
        return found

    def sparsity(self) -> float:
        """Share of the masked tensors' elements that are off, 0..1."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.count_nonzero()) for mask in self.masks.values()) / total if total else 0.0

    @torch.no_grad()
    def undo(self) -> None:
        """All masks on, and the original weights back, bit for bit."""
        tensors = self.parameters()
        for name, value in self.original.items():
            tensors[name].copy_(value)
            self.masks[name].fill_(1)
        self.off = {}

    def state(self) -> dict[str, Tensor]:
        """The masks, for a safetensors file."""
        return {name: mask.clone() for name, mask in self.masks.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises UserError, changing nothing, when ``state`` belongs to another architecture."""
        for name, mask in self.masks.items():
            if name not in state or state[name].shape != mask.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise UserError(
                    "these masks belong to another model",
                    where=name,
                    value=f"{found}, not {tuple(mask.shape)}",
                    mend="load the masks that were saved with this model",
                )
        for name, mask in self.masks.items():
            mask.copy_(state[name])
        self.apply()

    def find_off(self, trace: Trace) -> dict[str, tuple[int, ...]]:
        """Units of each group whose every masked element is off, read from the masks themselves."""
        found: dict[str, tuple[int, ...]] = {}
        for group in trace.groups:
            off = np.ones(group.size, dtype=bool)
            for part in group.slices:
                if part.tensor in self.masks:
                    mask = self.masks[part.tensor]
                    others = [d for d in range(mask.dim()) if d != part.dim]
                    empty = (mask.sum(others) if others else mask).numpy() == 0
                    off &= empty[part.indices].all(axis=1)
            units = tuple(np.flatnonzero(off).tolist())
            if units:
                found[group.name] = units
        return found
