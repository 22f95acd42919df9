"""Scores of units: a criterion's saliency, summed over everything that goes with the unit."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.criteria import CRITERIA, Criterion, WeightView
from neuroprune.pruning.statistics import Forward, Loss, Statistics, accumulate_gradients, track_activations

Scores = dict[str, np.ndarray]

#: values converted to float64 at once: they stay in a core's cache
_PORTION = 1 << 17


def gather(
    model: nn.Module,
    criterion: str,
    batches: Iterable[Any] | None,
    forward: Forward | None,
    loss: Loss | None = None,
) -> Statistics:
    """The statistics that ``criterion`` needs. Raises UserError when it needs data and none is given."""
    needs = CRITERIA.get(criterion).needs
    statistics = Statistics()
    if not needs:
        return statistics
    if batches is None or forward is None:
        raise UserError(f"the criterion {criterion!r} needs data", mend="give batches, or use l1 or l2")
    if "activations" in needs:
        statistics.input_magnitude = track_activations(model, forward, batches)
    if "gradients" in needs:
        if loss is None:
            raise UserError(f"the criterion {criterion!r} needs a loss", mend="give loss=, or use activation")
        statistics.gradient = accumulate_gradients(model, forward, loss, batches)
    return statistics


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
    different groups are therefore comparable (mean 1), which is S1's normalisation per layer.

    Raises UserError where the criterion finds nothing to score in a group, unless a pattern in ``keep`` matches
    it: then every unit scores 1.
    """
    rule = CRITERIA.get(criterion)
    if rule.needs and statistics is None:
        raise UserError(
            f"the criterion {criterion!r} needs data", mend="pass statistics=gather(...), or use l1 or l2"
        )
    saliency = saliencies(model, rule, statistics or Statistics(), seed)
    needed: dict[str, set[int]] = defaultdict(set)
    for group in trace.groups:
        for part in group.slices:
            needed[part.tensor].add(part.dim)
    totals = {
        (name, dim): total
        for name, tensor in saliency.items()
        for dim, total in _totals(tensor, sorted(needed[name])).items()
    }
    scores = {group.name: _of_group(group, totals) for group in trace.groups}
    empty = _without_scores(trace.groups, scores, rule, keep)
    return {
        name: values if values is not None else _of_nothing(rule, empty[name], seed)
        for name, values in scores.items()
    }


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
    if rule.looks != "anything":
        return np.ones(group.size)  # kept by the user
    values = rule.saliency(_view(group.name, torch.zeros(group.size), Statistics(), seed)).double().numpy()
    scores: np.ndarray = values / values.mean()
    return scores


def saliencies(model: nn.Module, rule: Criterion, statistics: Statistics, seed: int) -> dict[str, Tensor]:
    """Per-weight saliency of every tensor the criterion looks at; a tensor without its statistic is left out."""
    out: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        scale = isinstance(module, _BatchNorm) and name.endswith("weight")
        if scale if rule.looks == "scales" else weight.dim() >= 2:
            view = _view(name, weight.detach(), statistics, seed)
            if ("activations" not in rule.needs or view.input_magnitude is not None) and (
                "gradients" not in rule.needs or view.gradient is not None
            ):
                out[name] = rule.saliency(view)
    return out


def _view(name: str, weight: Tensor, statistics: Statistics, seed: int) -> WeightView:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return WeightView(
        name,
        weight,
        statistics.input_magnitude.get(name),
        statistics.gradient.get(name),
        torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")),
    )


def _totals(tensor: Tensor, dims: Sequence[int]) -> dict[int, np.ndarray]:
    """Per dimension, the sum over all others in float64: [size of dim]. One read, a cache's worth at a time."""
    totals = {dim: torch.zeros(tensor.shape[dim], dtype=torch.float64) for dim in dims}
    rows = max(1, _PORTION * tensor.shape[0] // max(tensor.numel(), 1))
    for first in range(0, tensor.shape[0] if dims else 0, rows):
        portion = tensor[first : first + rows].double()
        for dim, total in totals.items():
            others = [d for d in range(tensor.dim()) if d != dim]
            place = total[first : first + rows] if dim == 0 else total
            place += portion.sum(others) if others else portion
    return {dim: total.numpy() for dim, total in totals.items()}


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
