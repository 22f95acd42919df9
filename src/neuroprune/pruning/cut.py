"""``prune``: trace, score, allocate, prove, cut. What cannot be proven stays whole and is reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.base.modes import copy_of
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Refusal
from neuroprune.pruning.allocate import Granularity, Scope, allocate, build_plan, check_patterns
from neuroprune.pruning.exported import exported
from neuroprune.pruning.plan import TIERS, GroupDecision, Plan
from neuroprune.pruning.score import from_examples, score
from neuroprune.pruning.statistics import Statistics
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify


@dataclass(frozen=True)
class PruneResult:
    """``model``: the cut network, of the user's own class. ``refused``: dimensions with what stays, and why.

    ``tier``: ``module``; or ``exported`` where ``model`` is an exported graph, for inference only.
    """

    model: nn.Module
    plan: Plan
    verification: Verification
    refused: tuple[Refusal, ...]
    tier: str = "module"


def prune(
    model: nn.Module,
    example_inputs: Any,
    ratio: float = 0.5,
    *,
    criterion: str = "l2",
    scope: Scope = "local",
    granularity: Granularity | Literal["block"] = "channel",
    round_to: int = 1,
    keep: Sequence[str] = (),
    statistics: Statistics | None = None,
    inplace: bool = False,
    on_refuse: Literal["report", "raise"] = "report",
    seed: int = 0,
    tier: Literal["module", "exported"] = "module",
) -> PruneResult:
    """Physically remove about ``ratio`` of the channels of ``model``; no hints about its structure needed.

    >>> result = prune(model, torch.randn(1, 3, 32, 32), ratio=0.5)

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword arguments, or a list of several such
    calls. Counts that go are rounded up. Returned only when the result equals the masked dense network (float64,
    relative error <= 1e-9). Groups for which that cannot be shown stay whole and are listed in ``refused``;
    ``on_refuse="raise"`` raises CutRefused for them instead (not for what the trace alone shows to be uncuttable,
    such as outputs and literal sizes). ``granularity="block"`` removes whole residual blocks (``prune_depth``).

    ``tier="exported"`` cuts an exported graph of ``model`` instead, in which sizes that are literals of its code
    can be changed too. The result is for inference only and for inputs of the example's sizes (the first dimension
    may vary where the model lets it); `neuroprune.save_exported` writes it. ``model`` is not touched.

    Raises UserError for unknown names, bad ratios or inputs that do not fit.
    """
    _check_options(on_refuse, tier, inplace)
    if granularity == "block":
        return _prune_blocks(
            model, example_inputs, ratio, tier, criterion=criterion, keep=keep, statistics=statistics,
            on_refuse=on_refuse, seed=seed, inplace=inplace,
        )  # fmt: skip
    if tier == "exported":
        model, inplace = exported(model, example_inputs), True  # a copy already
    found = trace(model, example_inputs)
    check_patterns(found.groups, keep)
    statistics = statistics or from_examples(model, criterion, example_inputs)
    scores = score(model, found, criterion, statistics, seed=seed, keep=keep)
    plan = allocate(
        model, found, scores, ratio, scope=scope, granularity=granularity, round_to=round_to, keep=keep,
        criterion=criterion, constraint=f"ratio={ratio:g}",
    )  # fmt: skip
    plan, verification, refused = prove(model, found, plan, example_inputs)
    if refused and on_refuse == "raise":
        raise CutRefused(refused[0].reason, where=refused[0].parameter)
    cut = apply(plan, model if inplace else copy_of(model))
    return PruneResult(cut, plan, verification, found.refused + refused, tier)


def _check_options(on_refuse: str, tier: str, inplace: bool) -> None:
    if on_refuse not in ("report", "raise"):
        raise UserError(f"unknown on_refuse {on_refuse!r}", mend="use report or raise")
    if tier not in TIERS:
        raise UserError(f"unknown tier {tier!r}", mend=f"use {' or '.join(TIERS)}")
    if tier == "exported" and inplace:
        raise UserError(
            "an exported graph is another object than the model", value="inplace=True", mend="take result.model"
        )


def _prune_blocks(model: nn.Module, example_inputs: Any, ratio: float, tier: str, **options: Any) -> PruneResult:
    from neuroprune.pruning.depth import prune_depth  # depth.py stands on this module

    if tier != "module":
        raise UserError("blocks are modules; an exported graph has none", value=tier, mend='use tier="module"')
    return prune_depth(model, example_inputs, ratio, **options)


def prove(
    model: nn.Module, found: Trace, plan: Plan, example_inputs: Any
) -> tuple[Plan, Verification, tuple[Refusal, ...]]:
    """The part of ``plan`` that is exact: groups that spoil the proof are left whole and reported.

    The whole plan nearly always holds. Where it does not, the same layers of repeated blocks are tried together
    (a size written into a block's code spoils all of them, and nothing else), then one by one. ``model`` is not
    touched.
    """
    verification = verify(model, plan, example_inputs, found=found)
    if verification.exact:
        return plan, verification, ()
    decisions = [_whole(decision, "not tried yet") for decision in plan.decisions]
    refused = []

    def attempt(indices: Sequence[int]) -> Verification:
        """Take these groups in, if the network then still computes what the masked dense one computes."""
        wider = [plan.decisions[i] if i in indices else d for i, d in enumerate(decisions)]
        tried = verify(model, build_plan(model, found, wider), example_inputs, found=found)
        if tried.exact:
            decisions[:] = wider
        return tried

    for family in _families(plan.decisions):
        if attempt(family).exact:
            continue
        for index in family:
            alone = attempt([index])
            if not alone.exact:
                decisions[index] = _whole(plan.decisions[index], f"not proven exact: {alone.problem}")
                refused.append(_refusal(found, plan.decisions[index], alone))
    proven = build_plan(model, found, decisions)
    return proven, verify(model, proven, example_inputs, found=found), tuple(refused)


def _families(decisions: Sequence[GroupDecision]) -> list[list[int]]:
    """Indices of the groups, together where their names differ in numbers alone: blocks.3.fc1 and blocks.7.fc1."""
    families: dict[str, list[int]] = {}
    for index, decision in enumerate(decisions):
        families.setdefault(re.sub(r"\d+", "#", decision.group), []).append(index)
    return list(families.values())


def _whole(decision: GroupDecision, reason: str) -> GroupDecision:
    everything = tuple(sorted(decision.kept + decision.removed))
    return replace(decision, kept=everything, removed=(), reason=reason)


def _refusal(found: Trace, decision: GroupDecision, attempt: Verification) -> Refusal:
    first = found.group(decision.group).slices[0]
    module = first.tensor.rpartition(".")[0]
    return Refusal(first.tensor, first.dim, "verify", module, attempt.where, attempt.problem)


def provable(model: nn.Module, found: Trace, example_inputs: Any) -> Trace:
    """``found`` without the groups whose cut cannot be proven; those are listed among the refusals.

    Two trial plans of random units are proven, so that whoever tries many ratios meets only groups that can go
    (a size written into the forward pass shows at any ratio). ``model`` is not touched.
    """
    for seed, ratio in enumerate((0.5, 0.3)):
        scores = score(model, found, "random", seed=seed)
        plan = allocate(model, found, scores, ratio, criterion="random")
        refused = prove(model, found, plan, example_inputs)[2]
        lost = {(r.parameter, r.dim) for r in refused}
        groups = tuple(g for g in found.groups if (g.slices[0].tensor, g.slices[0].dim) not in lost)
        found = replace(found, groups=groups, refused=found.refused + refused)
    return found
