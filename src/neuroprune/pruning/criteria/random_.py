"""The control that every criterion must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "random",
    summary="uniform noise from the seed: the control",
    source="control",
    looks="anything",
    zero_is_lowest=False,
    equivariant=False,  # noise belongs to a place, not to a value
)
def random(view: WeightView) -> Tensor:
    return torch.rand(view.weight.shape, generator=view.generator, dtype=view.weight.dtype)
