"""Plans of one dense network, each within the next: one cut after another as a single plan, and the check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.tensors import named_tensors

Removed = Mapping[str, Mapping[int, tuple[int, ...]]]
#: of units that went with an earlier cut; any threshold above zero explains them
_LEAST = float(np.nextafter(0.0, 1.0))


def composed(first: Plan, then: Plan, dense: nn.Module) -> Plan:
    """The plan on ``dense`` that cuts what ``first`` and, of the network it leaves, ``then`` cuts.

    ``then`` counts units of the network that ``first`` left. Units that are kept by the result are kept by
    ``first``: the two are nested by construction.
    """
    bypassed = {**first.bypassed, **then.bypassed}
    outermost = {name: r for name, r in bypassed.items() if not is_inside(name, bypassed.keys() - {name})}
    return replace(
        first,
        removed=_removed(first.removed, then.removed, dense),
        attributes=_attributes(first, then),
        decisions=_decisions(first.decisions, then.decisions),
        bypassed=outermost,
    )


def _removed(first: Removed, then: Removed, dense: nn.Module) -> dict[str, dict[int, tuple[int, ...]]]:
    tensors = named_tensors(dense)
    found: dict[str, dict[int, tuple[int, ...]]] = {name: dict(dims) for name, dims in first.items()}
    for name, dims in then.items():
        for dim, indices in dims.items():
            gone = found.get(name, {}).get(dim, ())
            found.setdefault(name, {})[dim] = _both(gone, indices, tensors[name].shape[dim])
    return found


def _both(gone: Sequence[int], then: Sequence[int], size: int) -> tuple[int, ...]:
    """Indices of ``size`` that went first, and those of what was left that went then."""
    left = np.setdiff1d(np.arange(size), gone)
    return tuple(sorted({*gone, *left[list(then)].tolist()}))


def _attributes(first: Plan, then: Plan) -> tuple[AttributeEdit, ...]:
    edits = {(edit.module, edit.name): edit for edit in first.attributes}
    for edit in then.attributes:
        earlier = edits.get((edit.module, edit.name), edit)
        edits[edit.module, edit.name] = replace(earlier, after=edit.after)
    return tuple(edits.values())


def _decisions(first: Sequence[GroupDecision], then: Sequence[GroupDecision]) -> tuple[GroupDecision, ...]:
    """Those of ``then`` in the units of the dense network; of groups that are no more, those of ``first``."""
    later = {decision.group: decision for decision in then}
    found = [_decision(one, later.pop(one.group)) if one.group in later else one for one in first]
    return (*found, *(one for one in later.values()))


def _decision(first: GroupDecision, then: GroupDecision) -> GroupDecision:
    if len(first.kept) != len(then.kept) + len(then.removed):  # the same name for another group
        return first
    scores = [0.0] * (len(first.kept) + len(first.removed))
    for unit, score in zip(first.kept, then.scores, strict=True):
        scores[unit] = score
    kept = tuple(first.kept[unit] for unit in then.kept)
    gone = tuple(unit for unit in range(len(scores)) if unit not in set(kept))
    threshold = max(then.threshold, _LEAST) if gone else then.threshold
    return replace(then, kept=kept, removed=gone, scores=tuple(scores), threshold=threshold)


def check_nested(plans: Sequence[Plan]) -> None:
    """``plans``: the smallest network's first. Raises UserError where one keeps what the next one has lost."""
    if len({plan.fingerprint for plan in plans}) > 1:
        raise UserError("the levels are cut from different networks", mend="cut all of them from the same one")
    for number, (smaller, larger) in enumerate(pairwise(plans)):
        lost = _kept_beyond(smaller, larger)
        if lost:
            raise UserError(
                f"level {number} is not within level {number + 1}",
                where=lost,
                mend="cut each level out of the next larger one",
            )


def _kept_beyond(smaller: Plan, larger: Plan) -> str | None:
    """What ``smaller`` has and ``larger`` has not; None where there is nothing."""
    for block in larger.bypassed:
        if not is_inside(block, smaller.bypassed):
            return f"block {block}"
    for name, dims in larger.removed.items():
        for dim, gone in dims.items():
            kept = set(gone) - set(smaller.removed.get(name, {}).get(dim, ()))
            if kept and not is_inside(name, smaller.bypassed):
                return f"{name}, dimension {dim}, index {min(kept)}"
    return None
