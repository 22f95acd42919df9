"""From saliencies to masks over single weights or blocks of them: how many go where, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.pruning.patterns import Pattern, pattern

#: normalised: one threshold for all layers, each layer's saliency over its mean (S1); global: one threshold for
#: the saliencies as they are; layer: the same share of each; erk: densities by the layers' shapes
#: (`erk_densities`)
Spread = Literal["normalised", "global", "layer", "erk"]


@dataclass(frozen=True)
class Selection:
    """``masks``: ones where a weight stays, by tensor. ``spared``: tensors that would have lost every weight, and
    keep the block with the largest saliency."""

    masks: dict[str, Tensor]
    spared: tuple[str, ...] = ()


def select_weights(
    saliency: Mapping[str, Tensor], fraction: float, *, shape: str = "weight", spread: Spread = "normalised"
) -> Selection:
    """Take the ``fraction`` of all weights with the lowest ``saliency`` (tensors of the weights' shapes).

    ``shape``: which weights go together (`patterns.pattern`). With blocks the share is met as nearly as whole
    blocks can. N:M sets its own share: ``fraction`` must be that, or 0 for none. Every tensor keeps a block at the
    least. Raises UserError for a fraction outside [0, 1), unknown names, saliencies that are not finite, and a
    fraction that N:M cannot give.
    """
    if not 0 <= fraction < 1:
        raise UserError(
            "the pruning fraction must be at least 0 and below 1", value=fraction, mend="0.5 switches half off"
        )
    if spread not in get_args(Spread):
        guess = nearest(spread, get_args(Spread))
        raise UserError(
            f"unknown spread {spread!r}",
            mend=(f"did you mean {guess!r}? " if guess else "") + f"use one of {', '.join(get_args(Spread))}",
        )
    for name, values in saliency.items():
        if not bool(values.isfinite().all()):
            raise UserError("the scores are not finite", where=name, mend="check weights and data for NaN")
    chosen = pattern(shape)
    if chosen.fixed:
        return _fixed(saliency, chosen, fraction)
    scaled = {name: _scaled(values, spread) for name, values in saliency.items()}
    pooled = {name: chosen.pool(values) for name, values in scaled.items()}
    parts = [{name: values} for name, values in pooled.items()] if spread in ("layer", "erk") else [pooled]
    shares = _shares(saliency, fraction) if spread == "erk" else {}
    masks: dict[str, Tensor] = {}
    for part in parts:
        masks |= _below(part, shares.get(next(iter(part), ""), fraction), exact=shape == "weight")
    return _without_empty(masks, pooled)


def _scaled(saliency: Tensor, spread: Spread) -> Tensor:
    values = saliency.double()
    return values / values.mean().clamp_min(1e-30) if spread == "normalised" else values


def _fixed(saliency: Mapping[str, Tensor], chosen: Pattern, fraction: float) -> Selection:
    kept, run = chosen.keep_of
    own = 1 - kept / run
    if fraction == 0:
        return Selection({name: torch.ones_like(values) for name, values in saliency.items()})
    if not math.isclose(fraction, own, abs_tol=1e-6):
        raise UserError(
            f"{chosen.name} switches {own:g} of the weights off, neither more nor less",
            value=f"fraction {fraction}",
            mend=f"give a fraction of {own:g}, all at once",
        )
    return Selection({name: chosen.mask(values) for name, values in saliency.items()})


def _below(pooled: Mapping[str, Tensor], fraction: float, *, exact: bool) -> dict[str, Tensor]:
    """Zeros at the lowest ``fraction`` of all elements; ``exact``: ties go in their order, not all or none."""
    if not pooled:
        return {}
    flat = torch.cat([values.flatten() for values in pooled.values()])
    count = int(flat.numel() * fraction + 1e-9)
    kept = torch.ones_like(flat)
    if exact:
        kept[flat.argsort(stable=True)[:count]] = 0
    elif count:
        threshold = flat.kthvalue(count).values
        through, under = flat <= threshold, flat < threshold
        nearer = int(through.sum()) - count <= count - int(under.sum())
        kept[through if nearer else under] = 0
    sizes = [values.numel() for values in pooled.values()]
    return {
        name: part.reshape(pooled[name].shape) for name, part in zip(pooled, torch.split(kept, sizes), strict=True)
    }


def _without_empty(masks: dict[str, Tensor], pooled: Mapping[str, Tensor]) -> Selection:
    spared = tuple(name for name, mask in masks.items() if mask.numel() and not bool(mask.any()))
    for name in spared:
        values = pooled[name]
        masks[name] = (values == values.max()).to(masks[name].dtype)
        if bool(masks[name].all()):  # all alike: one weight then
            masks[name] = torch.zeros_like(values)
            masks[name].view(-1)[0] = 1
    return Selection(masks, spared)


def _shares(saliency: Mapping[str, Tensor], fraction: float) -> dict[str, float]:
    shapes = {name: tuple(values.shape) for name, values in saliency.items()}
    return {name: 1 - density for name, density in erk_densities(shapes, 1 - fraction).items()}


def erk_densities(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Kept share of each tensor, in proportion to (n_in + n_out + kh + kw) / (n_in n_out kh kw) and at most 1,
    such that ``density`` of all weights stay (Evci et al. 2020, Rigging the lottery, Erdos-Renyi-kernel)."""
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    full: set[str] = set()
    while True:
        rest = density * sum(sizes.values()) - sum(sizes[name] for name in full)
        free = [name for name in raw if name not in full]
        weight = sum(raw[name] * sizes[name] for name in free)
        scale = rest / weight if weight else 0.0
        over = {name for name in free if raw[name] * scale > 1}
        if not over:
            return {name: 1.0 if name in full else raw[name] * scale for name in raw}
        full |= over
