"""Which weights go next: the lowest of those that are still on, down to an exact count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroprune.base.errors import UserError


@dataclass(frozen=True)
class Pool:
    """Tensors whose weights are compared with each other, and how many of their weights stay on together."""

    names: tuple[str, ...]
    keep: int


def kept_after(size: int, fraction: float, rounds: int) -> int:
    """Weights on of ``size`` after ``rounds`` in each of which ``fraction`` of what is on goes; at least one.

    Counted from the beginning, so that small layers lose their share too and no rounding adds up.
    """
    return max(1, round(size * (1 - fraction) ** rounds))


def thinned(
    masks: Mapping[str, Tensor], saliency: Mapping[str, Tensor], pools: Sequence[Pool]
) -> dict[str, Tensor]:
    """``masks`` with the lowest saliencies of each pool off: exactly ``pool.keep`` weights stay on.

    What is off stays off, every tensor keeps its largest weight (so a pool may keep more than it should), and
    equal saliencies go in the order in which they lie. Raises UserError for a saliency that is not finite.
    """
    found = {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in masks.items()}
    for pool in pools:
        parts = [_candidates(name, masks[name], saliency[name]) for name in pool.names]
        surplus = sum(int(masks[name].count_nonzero()) for name in pool.names) - pool.keep
        for name, places in zip(pool.names, _lowest(parts, surplus), strict=True):
            found[name].view(-1)[places] = 0
    return found


def _candidates(name: str, mask: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
    """(place, saliency) of every weight that is on, the largest aside."""
    places = mask.flatten().nonzero().squeeze(1)
    values = saliency.detach().expand_as(mask).flatten()[places].double()
    if not bool(values.isfinite().all()):
        raise UserError("the saliencies are not finite", where=name, mend="check weights and data for NaN")
    if not len(places):
        return places, values
    others = torch.arange(len(places), device=places.device) != values.argmax()
    return places[others], values[others]


def _lowest(parts: Sequence[tuple[Tensor, Tensor]], count: int) -> list[Tensor]:
    """Of each part, the places of what is among the ``count`` lowest of all parts."""
    pooled = torch.cat([values for _, values in parts])
    chosen = torch.zeros(len(pooled), dtype=torch.bool, device=pooled.device)
    chosen[pooled.argsort(stable=True)[: max(count, 0)]] = True
    split = torch.split(chosen, [len(values) for _, values in parts])
    return [places[mine] for (places, _), mine in zip(parts, split, strict=True)]
