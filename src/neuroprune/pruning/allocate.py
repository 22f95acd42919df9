"""From scores to a plan: how many units of each group go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.plan import GroupDecision, Plan, fingerprint, tier_of
from neuroprune.pruning.score import Scores
from neuroprune.pruning.surgery import attribute_edits

Scope = Literal["local", "global"]
Granularity = Literal["channel", "filter", "neuron", "rows", "head", "head_dim", "conv_group"]

#: granularity -> kinds of groups it cuts
KINDS: dict[str, tuple[str, ...]] = {
    "channel": ("channel", "head", "head_dim", "conv_group"),
    "filter": ("channel", "head", "head_dim", "conv_group"),
    "neuron": ("channel", "head", "head_dim", "conv_group"),
    "rows": ("channel",),
    "head": ("head",),
    "head_dim": ("head_dim",),
    "conv_group": ("conv_group",),
}


def allocate(
    model: nn.Module,
    trace: Trace,
    scores: Scores,
    ratio: float,
    *,
    scope: Scope = "local",
    granularity: Granularity = "channel",
    round_to: int = 1,
    minimum: int = 1,
    keep: Sequence[str] = (),
    criterion: str = "",
    constraint: str = "",
) -> Plan:
    """Remove about ``ratio`` of the units with the lowest scores.

    ``local``: the same ratio in every group; ``global``: one threshold for all groups (scores have mean 1 in
    each). ``granularity``: which groups; ``channel``, ``filter`` and ``neuron`` are three names for all of them,
    ``rows`` removes runs of ``round_to`` consecutive channels. Kept counts are rounded up to a multiple of
    ``round_to`` and never under ``minimum``. ``keep``: patterns (``layer1.*``) of groups or tensors that stay
    whole. With the same scores a larger ratio removes a superset unless sizes in the model's code force other
    counts. Raises UserError for options out of range.
    """
    _check(ratio, scope, round_to, minimum, granularity)
    free = [g for g in trace.groups if not g.matches(keep) and g.kind in KINDS[granularity]]
    removed = _global_counts(free, scores, ratio) if scope == "global" else _local_counts(free, ratio)
    run = round_to if granularity == "rows" else 1
    wanted = {g.name: g.size - _rounded(g, removed.get(g.name, 0), round_to, minimum, run) for g in trace.groups}
    names = {g.name for g in free}
    admissible = {g.name: _admissible(g, g.name in names, round_to, minimum, run) for g in trace.groups}
    kept = trace.system.choose(wanted, admissible)
    decisions = []
    for group in trace.groups:
        reason = f"{scope} ratio {ratio:g}"
        if group.name not in names:
            reason = "kept by the user" if group.matches(keep) else f"not cut at granularity {granularity}"
        elif kept[group.name] != wanted[group.name]:
            reason += _why_other_count(group, kept[group.name])
        count = group.size - kept[group.name]
        decisions.append(_decide(group, scores[group.name], count, criterion, reason, constraint, run))
    return build_plan(model, trace, decisions)


def build_plan(model: nn.Module, trace: Trace, decisions: Sequence[GroupDecision]) -> Plan:
    """The plan that removes ``decision.removed`` of each group, with every size in the model's code made right.

    Where no sizes fit these counts, the nearest counts that do are taken; groups that remove nothing stay whole.
    """
    edits = trace.system.edits({d.group: len(d.kept) for d in decisions})
    if edits is None:
        decisions = _settled(trace, decisions)
        edits = trace.system.edits({d.group: len(d.kept) for d in decisions}) or ()
    removed = _removed(trace, decisions)
    changes = attribute_edits(model, removed, edits)
    return Plan(fingerprint(model), removed, changes, tuple(decisions), tier=tier_of(model))


def _removed(trace: Trace, decisions: Sequence[GroupDecision]) -> dict[str, dict[int, tuple[int, ...]]]:
    """Tensor -> dimension -> indices that go, ascending."""
    groups = {group.name: group for group in trace.groups}
    gone: dict[str, dict[int, list[np.ndarray]]] = {}
    for decision in decisions:
        if decision.removed:
            units = np.array(decision.removed)
            for part in groups[decision.group].slices:
                gone.setdefault(part.tensor, {}).setdefault(part.dim, []).append(part.indices[units].ravel())
    return {
        name: {dim: tuple(_ascending(dims[dim]).tolist()) for dim in sorted(dims)}
        for name, dims in sorted(gone.items())
    }


def _ascending(indices: Sequence[np.ndarray]) -> np.ndarray:
    """Each once: heads and their places take the same rows away."""
    found = np.sort(np.concatenate(indices))
    return np.unique(found) if (found[1:] == found[:-1]).any() else found


def _settled(trace: Trace, decisions: Sequence[GroupDecision]) -> list[GroupDecision]:
    """The same decisions with the nearest counts for which the sizes in the model's code can be made right."""
    groups = {g.name: g for g in trace.groups}
    wanted = {d.group: len(d.kept) for d in decisions}
    whole = {d.group: [groups[d.group].size] for d in decisions if not d.removed}
    kept = trace.system.choose(wanted, whole)
    out = []
    for d in decisions:
        group, count = groups[d.group], groups[d.group].size - kept[d.group]
        if count == len(d.removed):
            out.append(d)
            continue
        reason = f"{d.reason}, {kept[d.group]} kept to fit the sizes written in the model's code"
        scores = np.asarray(d.scores)
        out.append(_decide(group, scores, count, d.criterion, reason, d.constraint, 1))
    return out


def _check(ratio: float, scope: str, round_to: int, minimum: int, granularity: str) -> None:
    if granularity not in KINDS:
        guess = nearest(granularity, list(KINDS))
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"unknown granularity {granularity!r}", mend=f"{hint}use one of {', '.join(KINDS)}, block")
    if not 0 <= ratio < 1:
        raise UserError("the ratio must be at least 0 and below 1", value=ratio, mend="0.5 removes half")
    if scope not in ("local", "global"):
        raise UserError(f"unknown scope {scope!r}", mend="use local or global")
    if round_to < 1 or minimum < 1:
        raise UserError(
            "round_to and minimum must be at least 1", value=(round_to, minimum), mend="1 means no constraint"
        )


def check_patterns(groups: Sequence[Group], patterns: Sequence[str], where: str | None = None) -> None:
    """Raises UserError when a ``keep`` pattern matches no group and no tensor of one."""
    for pattern in patterns:
        if not any(group.matches([pattern]) for group in groups):
            names = [group.name for group in groups]
            guess = nearest(pattern, names)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(
                f"keep={pattern!r} matches nothing", where=where, mend=f"{hint}groups: {', '.join(names)}"
            )


def _local_counts(groups: Sequence[Group], ratio: float) -> dict[str, int]:
    return {group.name: math.ceil(group.size * ratio - 1e-9) for group in groups}


def _global_counts(groups: Sequence[Group], scores: Scores, ratio: float) -> dict[str, int]:
    if not groups:
        return {}
    pooled = np.concatenate([scores[g.name] for g in groups])
    owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
    lowest = np.argsort(pooled, kind="stable")[: math.floor(pooled.size * ratio + 1e-9)]
    counts = np.bincount(owner[lowest], minlength=len(groups))
    return {group.name: int(count) for group, count in zip(groups, counts, strict=True)}


def _why_other_count(group: Group, kept: int) -> str:
    if group.kind in ("head", "head_dim", "conv_group") and kept == group.size:
        return ", whole: what crosses it (heads and their dimensions) goes instead"
    return f", {kept} kept to fit the sizes written in the model's code"


def _rounded(group: Group, removed: int, round_to: int, minimum: int, run: int) -> int:
    """How many to remove when the kept ones are rounded up; heads and groups are counted one by one."""
    if run > 1:  # whole runs go, at least as many units as asked for, as far as the minimum allows
        return min(math.ceil(removed / run), (group.size - min(minimum, group.size)) // run) * run
    kept = max(group.size - removed, min(minimum, group.size))
    step = 1 if group.kind in ("head", "conv_group") else round_to
    return group.size - min(group.size, math.ceil(kept / step) * step)


def _admissible(group: Group, free: bool, round_to: int, minimum: int, run: int) -> list[int]:
    if not free:
        return [group.size]
    least = min(minimum, group.size)
    if run > 1:
        return [k for k in range(group.size, 0, -run) if k >= least]
    step = 1 if group.kind in ("head", "conv_group") else round_to
    return [k for k in range(step, group.size, step) if k >= least] + [group.size]


def _decide(
    group: Group, scores: np.ndarray, count: int, criterion: str, reason: str, constraint: str, run: int
) -> GroupDecision:
    """Remove the ``count`` lowest units; with ``run`` > 1 in runs of so many consecutive ones, by their mean."""
    ranked = scores
    if run > 1:
        whole = group.size // run * run
        means = scores[:whole].reshape(-1, run).mean(axis=1)
        ranked = np.concatenate([np.repeat(means, run), np.full(group.size - whole, np.inf)])
    order = np.argsort(ranked, kind="stable")
    removed, kept = np.sort(order[:count]).tolist(), np.sort(order[count:]).tolist()
    threshold = float(ranked[order[count]]) if count < group.size else float("inf")
    return GroupDecision(
        group.name,
        criterion,
        tuple(kept),
        tuple(removed),
        tuple(np.asarray(scores, dtype=np.float64).tolist()),
        threshold,
        reason,
        constraint,
    )
