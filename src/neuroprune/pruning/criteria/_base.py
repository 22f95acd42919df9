"""What a criterion sees, a weight or the parts of a group of units with their statistics; and the registry.

A criterion is one short function of one of two kinds. ``@criterion``: a saliency per weight (``WeightView`` ->
tensor of the weight's shape), which is summed over what belongs to a unit and can switch single weights off as
well. ``@unit_criterion``: a score per unit (``GroupView`` -> [units]), for formulas that compare or measure units
as wholes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neuroprune.base.registry import Registry

#: beside the weights. activations: sums over a layer's inputs; gradients: of the loss; hessian: second moments of
#: a layer's inputs; paths: one input's shape, no data; loss: the network measured without each unit
Need = Literal["activations", "gradients", "hessian", "paths", "loss"]
Looks = Literal["matrices", "scales", "anything"]
Role = Literal["rows", "columns", "scale", "shift", "other"]


@dataclass(frozen=True)
class WeightView:
    """One parameter with its statistics, all of its shape or broadcastable to it. Absent statistics are None.

    ``input_magnitude``: mean over samples (and positions) of |x_j| for the input each weight multiplies;
    ``input_norm``: ||x_j||_2 over all of them; ``input_active``: the share of them that is not zero.
    ``gradient``: d loss / d weight, summed over the calibration batches. ``path_gradient``: d R / d |weight|, R
    the summed strength of all paths, and ``squared_path_gradient`` the same of squared weights
    (``path_strength.py``). ``hessian``: sum of x x^T over a linear layer's or convolution's inputs, float64
    [groups, columns, columns]; a column is an input channel at a kernel position, in the order of
    ``weight[0].flatten()``; for layers with a bias one more at the end, whose input is one.
    """

    name: str
    weight: Tensor
    input_magnitude: Tensor | None = None
    gradient: Tensor | None = None
    generator: torch.Generator | None = None
    input_norm: Tensor | None = None
    input_active: Tensor | None = None
    path_gradient: Tensor | None = None
    squared_path_gradient: Tensor | None = None
    hessian: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """What of one parameter belongs to each unit of a group: ``indices`` [units, k] along ``dim``.

    ``role``: ``rows`` make the unit's values (filters, biases aside), ``columns`` read them, ``scale`` and
    ``shift`` are a batch norm's; ``groups``: of the convolution.
    """

    view: WeightView
    dim: int
    indices: Tensor
    role: Role = "other"
    groups: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """The units' values of a tensor broadcastable to the parameter: float64 [units, values]."""
        picked = tensor.expand_as(self.view.weight).movedim(self.dim, 0)[self.indices]
        return picked.flatten(1).double()

    @property
    def weights(self) -> Tensor:
        """[units, values]"""
        return self.of(self.view.weight)

    @property
    def gradients(self) -> Tensor:
        """[units, values]"""
        assert self.view.gradient is not None
        return self.of(self.view.gradient)


@dataclass(frozen=True)
class GroupView:
    """Interchangeable units: every parameter that a unit has a part in, and what was measured without each unit.

    ``loss_change``: float64 [units], loss without the unit minus loss with all, mean over the batches.
    """

    name: str
    size: int
    parts: tuple[Part, ...]
    loss_change: Tensor | None = None

    def parts_as(self, role: Role) -> list[Part]:
        return [part for part in self.parts if part.role == role]

    @property
    def rows(self) -> list[Part]:
        return self.parts_as("rows")

    @property
    def columns(self) -> list[Part]:
        return self.parts_as("columns")


Saliency = Callable[[WeightView], Tensor]
UnitScore = Callable[[GroupView], Tensor]


@dataclass(frozen=True)
class Criterion:
    """One of ``saliency``: WeightView -> non-negative tensor of the weight's shape, and ``units``: GroupView ->
    [units], or [0] where the group holds nothing to score. Larger means keep.

    ``looks``: at weight matrices and kernels, or at the batch norms; at ``anything``: at matrices, and where there
    are none at a vector of zeros, one number per unit. ``zero_is_lowest``: no unit scores less than one whose
    every parameter is zero. ``equivariant``: a unit keeps its score in another place. ``absolute``: scores of
    different groups are in one unit of measurement, and compared as they are, not relative to their group's mean.
    ``elementwise``: a weight's saliency depends on nothing but this weight, so rows may be scored one by one.
    """

    name: str
    saliency: Saliency | None
    units: UnitScore | None
    needs: frozenset[Need]
    looks: Looks = "matrices"
    zero_is_lowest: bool = True
    equivariant: bool = True
    absolute: bool = False
    elementwise: bool = False

    def has_what_it_needs(self, view: WeightView) -> bool:
        """No statistic of the parameter that this criterion reads is absent."""
        found: dict[Need, Tensor | None] = {
            "activations": view.input_magnitude, "gradients": view.gradient, "paths": view.path_gradient,
        }  # fmt: skip
        return all(found[need] is not None for need in self.needs if need in found)


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(
    name: str,
    *,
    summary: str,
    source: str,
    needs: Sequence[Need] = (),
    looks: Looks = "matrices",
    zero_is_lowest: bool = True,
    equivariant: bool = True,
    elementwise: bool = False,
) -> Callable[[Saliency], Saliency]:
    """Decorator: register a saliency per weight of one to three lines. ValueError: the name is taken."""

    def add(function: Saliency) -> Saliency:
        made = Criterion(
            name, function, None, frozenset(needs), looks, zero_is_lowest, equivariant, elementwise=elementwise
        )
        CRITERIA.register(name, summary=summary, source=source)(made)
        return function

    return add


def unit_criterion(
    name: str,
    *,
    summary: str,
    source: str,
    needs: Sequence[Need] = (),
    looks: Looks = "matrices",
    zero_is_lowest: bool = True,
    equivariant: bool = True,
    absolute: bool = False,
) -> Callable[[UnitScore], UnitScore]:
    """Decorator: register a score per unit of one to ten lines. ValueError: the name is taken."""

    def add(function: UnitScore) -> UnitScore:
        made = Criterion(name, None, function, frozenset(needs), looks, zero_is_lowest, equivariant, absolute)
        CRITERIA.register(name, summary=summary, source=source)(made)
        return function

    return add


def relative(scores: Tensor) -> Tensor:
    """[units] over their mean, so that tensors of different sizes can be averaged; ones where all are zero."""
    mean = scores.abs().mean()
    return torch.ones_like(scores) if mean == 0 else scores / mean  # NaN stays, and is found


def average(scores: Iterable[Tensor]) -> Tensor:
    """The mean of several [units], each relative to its own mean; [0] where there are none."""
    found = [relative(values) for values in scores]
    return torch.stack(found).mean(0) if found else torch.empty(0)
