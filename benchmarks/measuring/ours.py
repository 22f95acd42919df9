"""neuroprune on one model: what it finds, what it cuts, and whether the result is right. Runs in a child."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

import neuroprune
from measuring.checks import LOOSE, TIGHT, checksum, left_alone, masked_error, run, runs_like, said, stir, trains
from measuring.children import Report
from measuring.shares import achieved, facts, parameters, removable_places
from neuroprune.base.errors import NeuropruneError
from neuroprune.testing import assert_exact


def measure_trace(zoo: Any, name: str, ratio: None, report: Report) -> None:
    """What can be removed: one fake pass over a network whose weights are never written."""
    report.tell(stage="build")
    model, inputs = zoo.build(name, lazy=True)
    report.tell(stage="trace", params=parameters(model))
    began = time.process_time()
    try:
        found = neuroprune.trace(model, inputs)
    except NeuropruneError as error:
        report.tell(status="refused", problem=said(error), trace_cpu_s=_since(began))
        return
    seconds = _since(began)
    report.tell(**facts(model, found), status="traced", trace_cpu_s=seconds)


def measure_prune(zoo: Any, name: str, ratio: float, report: Report) -> None:
    """Trace, prune, and check the result from outside."""
    report.tell(stage="build")
    model, inputs = zoo.build(name)
    report.tell(stage="dense", params=parameters(stir(model)))
    with torch.no_grad():
        before, outputs = checksum(model), run(model, inputs)
    report.tell(stage="trace")
    try:
        began = time.process_time()
        found = neuroprune.trace(model, inputs)
        report.tell(stage="prune", trace_cpu_s=_since(began), **facts(model, found))
        began = time.process_time()
        result = neuroprune.prune(model, inputs, ratio=ratio)
        report.tell(stage="check", prune_cpu_s=_since(began))
    except NeuropruneError as error:
        report.tell(status="refused", problem=said(error))
        return
    report.tell(**_removed(model, found, result), **_macs(model, result.model, inputs))
    changed = "its tensors or sizes" if checksum(model) != before else left_alone(model, inputs, outputs)
    if changed:
        report.tell(status="error", problem=f"the user's model is not as it was: {changed}")
        return
    status, problem = judge(model, result, inputs)
    report.tell(stage="train", status=status, problem=problem)
    if status == "refused":
        return
    runs, trouble = runs_like(model, result.model, inputs)
    report.tell(runs=runs)
    if runs is False and status != "wrong":
        report.tell(status="error", problem=f"the cut model does not run as the dense one does: {trouble}")
    trained, why = trains(result.model, model, lambda: _fresh(zoo, name, result.plan), inputs)
    report.tell(stage="done", trains=trained, trains_problem=why)


def judge(model: nn.Module, result: Any, inputs: Any) -> tuple[str, str]:
    """``exact``, ``statistics``, ``refused`` (nothing was cut) or ``wrong``, and why.

    Where statistics change, the masked network is no reference, and the engine's own second oracle decides.
    """
    if not result.plan.removed and not getattr(result.plan, "bypassed", ()):
        causes = [r for r in result.refused if r.operator == "verify"] or [
            r for r in result.refused if r.operator != "output"
        ]
        return "refused", f"{causes[0].parameter}: {causes[0].reason}" if causes else "nothing can be removed"
    said_so = result.verification
    if getattr(said_so, "statistics", False):
        return ("statistics", "") if said_so.exact else ("wrong", f"returned without proof: {said_so.problem}")
    try:
        assert_exact(model, result.model, result.plan, inputs)
    except AssertionError as error:
        return "wrong", said(error)
    error, allowed = masked_error(model, result.model, result.plan.removed, inputs)
    if said_so.max_relative_error > TIGHT:  # the engine, too, had to compute in float32
        allowed = LOOSE
    return ("exact", "") if error <= allowed else ("wrong", f"differs from the masked network by {error:.1e}")


def _removed(model: nn.Module, found: Any, result: Any) -> dict[str, Any]:
    before, after = parameters(model), parameters(result.model)
    groups = getattr(result.verification, "groups", {})
    return {
        "params_after": after,
        "removed": 1 - after / before,
        "achieved": achieved(removable_places(found.groups), result.plan.removed),
        "unproven": sum(r.operator == "verify" for r in result.refused),
        "edits": len(result.plan.attributes),
        "statistics_groups": sum(kind == "statistics" for kind in groups.values()),
        "max_relative_error": result.verification.max_relative_error,
        "values": result.verification.values,
        "tier": str(getattr(result, "tier", "module")),
    }


def _macs(dense: nn.Module, cut: nn.Module, inputs: Any) -> dict[str, Any]:
    try:
        return {f"macs{end}": neuroprune.cost(m, inputs).macs for end, m in (("", dense), ("_after", cut))}
    except Exception as error:  # the counter's trouble, not the engine's
        return {"macs_problem": said(error)}


def _fresh(zoo: Any, name: str, plan: Any) -> nn.Module:
    return neuroprune.apply(plan, zoo.build(name)[0])


def _since(began: float) -> float:
    return round(time.process_time() - began, 3)
