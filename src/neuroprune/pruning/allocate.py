"""From scores to a plan: how many units of each group go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Literal

import numpy as np
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.plan import GroupDecision, Plan, fingerprint
from neuroprune.pruning.score import Scores
from neuroprune.pruning.surgery import attribute_edits

Scope = Literal["local", "global"]


def allocate(
    model: nn.Module,
    trace: Trace,
    scores: Scores,
    ratio: float,
    *,
    scope: Scope = "local",
    round_to: int = 1,
    minimum: int = 1,
    keep: Sequence[str] = (),
    criterion: str = "",
    constraint: str = "",
) -> Plan:
    """Remove about ``ratio`` of the units with the lowest scores.

    ``local``: the same ratio in every group; ``global``: one threshold for all groups (scores have mean 1 in
    each). Kept counts are rounded up to a multiple of ``round_to`` and never under ``minimum``. ``keep``:
    patterns (``layer1.*``) of groups or tensors that stay whole. With the same scores a larger ratio removes
    a superset, so plans are nested. Raises UserError for options out of range.
    """
    _check(ratio, scope, round_to, minimum)
    free = [g for g in trace.groups if not _kept(g, keep)]
    wanted = _global_counts(free, scores, ratio) if scope == "global" else _local_counts(free, ratio)
    decisions = []
    for group in trace.groups:
        removed = _rounded(group.size, wanted.get(group.name, 0), round_to, minimum)
        reason = "kept by the user" if group not in free else f"{scope} ratio {ratio:g}"
        decisions.append(_decide(group, scores[group.name], removed, criterion, reason, constraint))
    return build_plan(model, trace, decisions)


def build_plan(model: nn.Module, trace: Trace, decisions: Sequence[GroupDecision]) -> Plan:
    """The plan that removes ``decision.removed`` of each group."""
    gone: dict[str, dict[int, set[int]]] = {}
    for decision in decisions:
        if not decision.removed:
            continue
        for part in trace.group(decision.group).slices:
            indices = part.indices[list(decision.removed)].ravel().tolist()
            gone.setdefault(part.tensor, {}).setdefault(part.dim, set()).update(indices)
    removed = {
        name: {dim: tuple(sorted(indices)) for dim, indices in sorted(dims.items())}
        for name, dims in sorted(gone.items())
    }
    return Plan(fingerprint(model), removed, attribute_edits(model, removed), tuple(decisions))


def _check(ratio: float, scope: str, round_to: int, minimum: int) -> None:
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
        if not any(_kept(group, [pattern]) for group in groups):
            names = [group.name for group in groups]
            guess = nearest(pattern, names)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(
                f"keep={pattern!r} matches nothing", where=where, mend=f"{hint}groups: {', '.join(names)}"
            )


def _kept(group: Group, patterns: Sequence[str]) -> bool:
    names = [group.name, *(part.tensor for part in group.slices)]
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _local_counts(groups: Sequence[Group], ratio: float) -> dict[str, int]:
    return {group.name: math.floor(group.size * ratio + 1e-9) for group in groups}


def _global_counts(groups: Sequence[Group], scores: Scores, ratio: float) -> dict[str, int]:
    if not groups:
        return {}
    pooled = np.concatenate([scores[g.name] for g in groups])
    owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
    lowest = np.argsort(pooled, kind="stable")[: math.floor(pooled.size * ratio + 1e-9)]
    counts = np.bincount(owner[lowest], minlength=len(groups))
    return {group.name: int(count) for group, count in zip(groups, counts, strict=True)}


def _rounded(size: int, removed: int, round_to: int, minimum: int) -> int:
    kept = max(size - removed, min(minimum, size))
    return size - min(size, math.ceil(kept / round_to) * round_to)


def _decide(
    group: Group, scores: np.ndarray, count: int, criterion: str, reason: str, constraint: str
) -> GroupDecision:
    order = np.argsort(scores, kind="stable")
    removed, kept = sorted(order[:count].tolist()), sorted(order[count:].tolist())
    threshold = float(scores[order[count]]) if count < group.size else float("inf")
    return GroupDecision(
        group.name,
        criterion,
        tuple(kept),
        tuple(removed),
        tuple(map(float, scores)),
        threshold,
        reason,
        constraint,
    )
