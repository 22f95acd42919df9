"""What a criterion sees: one weight tensor and the statistics that belong to it, never the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neuroprune.base.registry import Registry

Need = Literal["activations", "gradients"]
Looks = Literal["matrices", "scales", "anything"]


@dataclass(frozen=True)
class WeightView:
    """One weight with its statistics, all of the weight's shape or broadcastable to it.

    ``input_magnitude``: mean over samples (and positions) of |x_j| for the input each weight multiplies.
    ``gradient``: d loss / d weight, summed over the calibration batches. Absent statistics are None.
    """

    name: str
    weight: Tensor
    input_magnitude: Tensor | None = None
    gradient: Tensor | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Criterion:
    """``saliency``: WeightView -> non-negative tensor of the weight's shape; larger means keep.

    ``looks``: at weight matrices and kernels, or at the scales of batch norms; at ``anything``: at matrices, and
    where there are none at a vector of zeros, one number per unit.
    """

    name: str
    saliency: Callable[[WeightView], Tensor]
    needs: frozenset[Need]
    looks: Looks


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(
    name: str, *, summary: str, source: str, needs: Sequence[Need] = (), looks: Looks = "matrices"
) -> Callable[[Callable[[WeightView], Tensor]], Callable[[WeightView], Tensor]]:
    """Decorator: register a saliency function of one to three lines as a criterion."""

    def add(function: Callable[[WeightView], Tensor]) -> Callable[[WeightView], Tensor]:
        CRITERIA.register(name, summary=summary, source=source)(Criterion(name, function, frozenset(needs), looks))
        return function

    return add
