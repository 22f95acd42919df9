"""Scores of units: a criterion's saliency, summed over everything that goes with the unit."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.graph.calls import as_calls
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group, Slice
from neuroprune.pruning.criteria import (
    CRITERIA,
    Criterion,
    GroupView,
    Part,
    Role,
    UnitScore,
    WeightView,
    relative,
)
from neuroprune.pruning.statistics import Forward, Loss, Statistics, collect

Scores = dict[str, np.ndarray]

#: values converted to float64 at once: they stay in a core's cache
_PORTION = 1 << 17


def gather(
    model: nn.Module,
    criterion: str,
    batches: Iterable[Any] | None,
    forward: Forward | None,
    loss: Loss | None = None,
    *,
    trace: Trace | None = None,
) -> Statistics:
    """The statistics that ``criterion`` needs, from one pass over ``batches``; ``model`` stays as it is.

    ``forward``: (model, batch) -> output; ``loss``: (batch, output) -> scalar, for criteria with gradients, and
    for ``sensitivity`` where there are labels. ``trace``: of the model, for ``sensitivity``. Raises UserError when
    something is needed and not given, or there is no batch.
    """
    needs = CRITERIA.get(criterion).needs
    if not needs:
        return Statistics()
    if batches is None or forward is None:
        raise UserError(f"the criterion {criterion!r} needs data", mend="give batches, or use l1 or l2")
    if "gradients" in needs and loss is None:
        raise UserError(f"the criterion {criterion!r} needs a loss", mend="give loss=, or use activation")
    if "loss" in needs and trace is None:
        raise UserError(
            f"the criterion {criterion!r} needs to know the units", mend="give trace=trace(model, inputs)"
        )
    return collect(model, needs, batches, forward, loss, trace)


def from_examples(model: nn.Module, criterion: str, example_inputs: Any) -> Statistics | None:
    """Statistics of a criterion for which inputs of the right shape will do; None for those that need data."""
    if CRITERIA.get(criterion).needs != {"paths"}:
        return None
    return gather(model, criterion, as_calls(example_inputs), lambda net, call: net(*call[0], **call[1]))


def score(
    model: nn.Module,
    trace: Trace,
    criterion: str,
    statistics: Statistics | None = None,
    *,
    seed: int = 0,
    keep: Sequence[str] = (),
) -> Scores:
    """Score of every unit, per group: [units], larger means keep.

    Each tensor the group cuts contributes its saliency per unit, divided by the mean over the units, so that
    a wide consumer does not drown a narrow producer; the score is the mean over those tensors. Scores of
    different groups are therefore comparable (mean 1), which is S1's normalisation per layer. Criteria that score
    units as wholes are taken at mean 1 too, unless they measure all groups in one unit (``absolute``).

    Raises UserError without needed statistics, for scores that are not finite, and where the criterion finds
    nothing to score in a group, unless a pattern in ``keep`` matches it: then every unit scores 1.
    """
    rule = CRITERIA.get(criterion)
    if rule.needs and statistics is None:
        raise UserError(
            f"the criterion {criterion!r} needs data", mend="pass statistics=gather(...), or use l1 or l2"
        )
    known = statistics or Statistics()
    if rule.units is not None:
        scores = _of_units(model, trace, rule, rule.units, known, seed)
    else:
        scores = _of_weights(trace, rule, _views(model, rule, known, seed))
    empty = _without_scores(trace.groups, scores, rule, keep)
    return {
        name: values if values is not None else _of_nothing(rule, empty[name], seed)
        for name, values in scores.items()
    }


def _of_weights(trace: Trace, rule: Criterion, views: Sequence[WeightView]) -> dict[str, np.ndarray | None]:
    """Saliencies summed over everything that goes with a unit; None where a group has none."""
    needed: dict[str, set[int]] = defaultdict(set)
    for group in trace.groups:
        for part in group.slices:
            needed[part.tensor].add(part.dim)
    totals = {
        (view.name, dim): total
        for view in views
        if view.name in needed
        for dim, total in _totals(rule, view, sorted(needed[view.name])).items()
    }
    return {group.name: _of_group(group, totals) for group in trace.groups}


def _without_scores(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray | None], rule: Criterion, keep: Sequence[str]
) -> dict[str, Group]:
    """Groups in which the criterion finds nothing. Raises UserError where one of them needs a score."""
    empty = {group.name: group for group in groups if scores[group.name] is None}
    needed = [name for name, group in empty.items() if rule.looks != "anything" and not group.matches(keep)]
    if needed:
        raise UserError(
            f"the criterion {rule.name!r} finds nothing to score in this group",
            where=", ".join(needed),
            mend=f"leave it whole with keep={[*keep, *needed]}, or use another criterion (random scores anything)",
        )
    return empty


def _of_nothing(rule: Criterion, group: Group, seed: int) -> np.ndarray:
    if rule.looks != "anything" or rule.saliency is None:
        return np.ones(group.size)  # kept by the user
    values = rule.saliency(_view(group.name, torch.zeros(group.size), Statistics(), seed)).double().numpy()
    scores: np.ndarray = values / values.mean()
    return scores


def saliencies(model: nn.Module, rule: Criterion, statistics: Statistics, seed: int) -> dict[str, Tensor]:
    """Per-weight saliency of every tensor the criterion looks at; a tensor without its statistic is left out.

    Raises UserError for a criterion that scores units as wholes.
    """
    if rule.saliency is None:
        raise UserError(
            f"the criterion {rule.name!r} scores whole units, not single weights", mend="use l1, l2 or activation"
        )
    return {view.name: rule.saliency(view) for view in _views(model, rule, statistics, seed)}


def _views(model: nn.Module, rule: Criterion, statistics: Statistics, seed: int) -> list[WeightView]:
    """Every tensor the criterion looks at, with what it needs to know of it."""
    out: list[WeightView] = []
    modules = dict(model.named_modules())
    for name, weight in model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        scale = isinstance(module, _BatchNorm) and name.endswith("weight")
        if scale if rule.looks == "scales" else weight.dim() >= 2:
            view = _view(name, weight.detach(), statistics, seed)
            if rule.has_what_it_needs(view):
                out.append(view)
    return out


def _view(name: str, weight: Tensor, statistics: Statistics, seed: int) -> WeightView:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return WeightView(
        name,
        weight,
        statistics.input_magnitude.get(name),
        statistics.gradient.get(name),
        torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")),
        statistics.input_norm.get(name),
        statistics.input_active.get(name),
        statistics.path_gradient.get(name),
        statistics.squared_path_gradient.get(name),
        statistics.hessian.get(name),
    )


def view_of(name: str, weight: Tensor, seed: int) -> WeightView:
    """A weight as criteria that need no data see it."""
    return _view(name, weight, Statistics(), seed)


def _of_units(
    model: nn.Module, trace: Trace, rule: Criterion, units: UnitScore, statistics: Statistics, seed: int
) -> dict[str, np.ndarray | None]:
    views = {name: _view(name, p.detach(), statistics, seed) for name, p in model.named_parameters()}
    scores: dict[str, np.ndarray | None] = {}
    for group in trace.groups:
        parts = tuple(_part(model, views[s.tensor], s) for s in group.slices if s.tensor in views)
        usable = tuple(part for part in parts if rule.has_what_it_needs(part.view))
        found = units(GroupView(group.name, group.size, usable, statistics.loss_change.get(group.name)))
        if not found.numel():
            scores[group.name] = None
            continue
        if not bool(found.isfinite().all()):
            raise UserError("the scores are not finite", where=group.name, mend="check weights and data for NaN")
        scores[group.name] = (found if rule.absolute else relative(found)).double().cpu().numpy()
    return scores


def _part(model: nn.Module, view: WeightView, part: Slice) -> Part:
    module = model.get_submodule(view.name.rpartition(".")[0])
    indices = torch.as_tensor(part.indices, device=view.weight.device)
    return Part(view, part.dim, indices, role_of(module, view, part.dim), int(getattr(module, "groups", 1)))


def role_of(module: nn.Module, view: WeightView, dim: int) -> Role:
    """What dimension ``dim`` of a parameter is for; matrices of unknown modules are taken as [outputs, inputs]."""
    if isinstance(module, _BatchNorm):
        return "scale" if view.name.endswith("weight") else "shift"
    if view.weight.dim() < 2 or dim > 1:
        return "other"
    inputs_first = isinstance(module, (_ConvTransposeNd, nn.Embedding))
    return "columns" if (dim == 0) == inputs_first else "rows"


def _totals(rule: Criterion, view: WeightView, dims: Sequence[int]) -> dict[int, np.ndarray]:
    """Per dimension, the saliency's sum over all others in float64: [size of dim].

    One read, a cache's worth at a time; where each weight is scored by itself, so is the saliency.
    """
    assert rule.saliency is not None
    weight, whole = view.weight, None if rule.elementwise else rule.saliency(view)
    totals = {dim: torch.zeros(weight.shape[dim], dtype=torch.float64, device=weight.device) for dim in dims}
    rows = max(1, _PORTION * weight.shape[0] // max(weight.numel(), 1))
    for first in range(0, weight.shape[0], rows):
        part = slice(first, first + rows)
        portion = (rule.saliency(replace(view, weight=weight[part])) if whole is None else whole[part]).double()
        for dim, total in totals.items():
            others = [d for d in range(weight.dim()) if d != dim]
            place = total[part] if dim == 0 else total
            place += portion.sum(others) if others else portion
    return {dim: total.cpu().numpy() for dim, total in totals.items()}


def _of_group(group: Group, totals: Mapping[tuple[str, int], np.ndarray]) -> np.ndarray | None:
    """None where there is nothing to score."""
    parts = []
    for part in group.slices:
        per_index = totals.get((part.tensor, part.dim))
        if per_index is None:
            continue
        per_unit = per_index[part.indices].sum(axis=1)
        if not np.isfinite(per_unit).all():
            raise UserError("the scores are not finite", where=part.tensor, mend="check the weights for NaN")
        mean = per_unit.mean()
        parts.append(per_unit / mean if mean > 0 else np.ones_like(per_unit))
    return np.mean(parts, axis=0) if parts else None
