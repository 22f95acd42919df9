"""A network without some units of one group, for a while: the rest as it was, or what reads them fitted again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuroprune.base.modes import copy_of, refresh
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.allocate import build_plan
from neuroprune.pruning.plan import GroupDecision
from neuroprune.pruning.surgery import apply
from neuroprune.recover.moments import DAMPING, Moments, least_squares
from neuroprune.recover.refit import Consumption, affine_at, not_finite, without_bias
from neuroprune.recover.sites import Site


@dataclass(frozen=True)
class Refit:
    """What fitting consumers again takes: ``moments[layer]``: of the inputs that the dense network gives it."""

    consumptions: Mapping[str, Consumption]
    sites: Mapping[str, Site]
    moments: Mapping[str, Moments]


class Without:
    """``dense`` is copied and never written to. ``refit``: None leaves consumers as they are."""

    def __init__(self, dense: nn.Module, found: Trace, refit: Refit | None = None) -> None:
        self.dense, self.found, self.refit = dense, found, refit
        self.model = copy_of(dense)
        self.originals, self.tensors = _tensors(dense), _tensors(self.model)

    def refits(self, group: Group) -> bool:
        return self.refit is not None and group.name in self.refit.consumptions

    @contextmanager
    def units(self, group: Group, units: Sequence[int]) -> Iterator[tuple[nn.Module, int]]:
        """The network, and how many units it lacks: as many as asked for, or where the sizes in the model's code
        do not fit those, the nearest number that does.

        With the weights of all that belongs to a unit at zero a network computes what it computes without it;
        where a norm or a mean would see the zeros, it is really cut.
        """
        if group.statistics:
            yield self._cut(group, units)
            return
        touched: set[str] = set()
        try:
            self._zero(group, units, touched)
            if self.refits(group):
                self._fit(group, units, touched)
            refresh(self.model)
            yield self.model, len(units)
        finally:
            with torch.no_grad():
                for name in touched:
                    self.tensors[name].copy_(self.originals[name])

    def _cut(self, group: Group, units: Sequence[int]) -> tuple[nn.Module, int]:
        decisions = [_decision(one, units if one is group else ()) for one in self.found.groups]
        plan = build_plan(self.dense, self.found, decisions)
        removed = {decision.group: len(decision.removed) for decision in plan.decisions}
        return apply(plan, copy.deepcopy(self.dense)).eval(), removed[group.name]

    @torch.no_grad()
    def _zero(self, group: Group, units: Sequence[int], touched: set[str]) -> None:
        for part in group.slices:
            tensor = self.tensors[part.tensor]
            touched.add(part.tensor)
            gone = torch.as_tensor(part.indices[list(units)].ravel(), device=tensor.device)
            tensor.index_fill_(part.dim, gone, 0)

    def _fit(self, group: Group, units: Sequence[int], touched: set[str]) -> None:
        """Each consumer by least squares, on what is left of the dense network's inputs, to its dense values."""
        assert self.refit is not None
        for layer, columns in self.refit.consumptions[group.name].columns.items():
            site, moments = self.refit.sites[layer], self.refit.moments[layer]
            dense, affine = affine_at(self.dense, site).weight(), affine_at(self.model, site)
            kept = torch.ones(dense.shape[2] - 1, dtype=torch.bool)
            kept[columns[list(units)].flatten()] = False
            rows = (affine.weight().abs().sum(2, keepdim=True) > 0).double()  # its own units may be gone as well
            wanted = Moments(moments.xx, moments.xx @ dense.transpose(1, 2), moments.yy, moments.rows)
            fitted = wanted if affine.can_have_bias() else without_bias(wanted)
            try:
                solution = least_squares(fitted, kept, DAMPING, dense)
            except ValueError as error:
                raise not_finite(layer) from error
            written = {f"{module}.{key}" for module in (site.layer, site.norm) for key in _KEYS}
            touched |= written & set(self.tensors)
            affine.write(solution.weight * rows, moments)


_KEYS = ("weight", "bias", "running_mean", "running_var")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _decision(group: Group, removed: Sequence[int]) -> GroupDecision:
    gone = tuple(sorted(map(int, removed)))
    kept = tuple(i for i in range(group.size) if i not in set(gone))
    scores = tuple(0.0 if i in set(gone) else 1.0 for i in range(group.size))
    return GroupDecision(group.name, "sensitivity", kept, gone, scores, 0.5, "alone", "")
