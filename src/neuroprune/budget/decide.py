"""From counts and blocks to a plan with a reason for each unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from neuroprune.budget.depth import Removable
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.depth import with_blocks
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.recover.obs import Ranking


def with_depth(plan: Plan, removable: Sequence[Removable], gone: Sequence[Removable], constraint: str) -> Plan:
    """``plan`` with the blocks that go, and a decision for each that could."""
    decisions = [
        GroupDecision(
            f"block:{one.block.module}", "stream_error", () if one in gone else (0,), (0,) if one in gone else (),
            (one.error,), float(np.nextafter(one.error, 1.0 + one.error)) if one in gone else 0.0,
            "costs less than the channels that would have to go" if one in gone else "stays", constraint,
        )
        for one in removable
    ]  # fmt: skip
    plan = with_blocks(plan, [one.block for one in gone])
    return replace(plan, decisions=(*plan.decisions, *decisions))


def allowed_removals(group: Group, round_to: int, minimum: int) -> list[int]:
    """How many units of ``group`` may go: what is kept is a multiple of ``round_to`` and at least ``minimum``."""
    least = min(max(minimum, 1), group.size)
    kept = [group.size, *(k for k in range(group.size - 1, least - 1, -1) if k % round_to == 0)]
    return [group.size - k for k in kept]


def decisions_of(
    found: Trace, kept: Mapping[str, Sequence[int]], rankings: Mapping[str, Ranking], constraint: str
) -> list[GroupDecision]:
    decisions = []
    for group in found.groups:
        stays = tuple(kept.get(group.name, range(group.size)))
        gone = tuple(i for i in range(group.size) if i not in set(stays))
        scores = rankings[group.name].scores() if group.name in rankings else np.ones(group.size)
        reason = "least error of what consumes it" if gone else "stays whole"
        threshold = float(scores[list(stays)].min()) if gone else 0.0  # no score is below
        decisions.append(
            GroupDecision(group.name, "obs", stays, gone, tuple(map(float, scores)), threshold, reason, constraint)
        )
    return decisions
