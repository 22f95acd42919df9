"""A network's structure without a recipe: what ``inspect`` prints, what ``prune`` writes and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.base.files import atomic_folder, check_free, save_tensors, write_bytes, write_json
from neuroprune.base.nouns import Cost
from neuroprune.base.versions import versions
from neuroprune.graph.cost import cost
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Refusal
from neuroprune.pruning.cut import PruneResult, prune
from neuroprune.pruning.exported import program_bytes
from neuroprune.pruning.restore import save_undo

SCHEMA = 1


@dataclass(frozen=True)
class PrunedOnce:
    """A cut and what it changed; ``before`` and ``after``: parameters and multiply-accumulates per example."""

    result: PruneResult
    before: Cost
    after: Cost


def prune_into(
    folder: Path, network: nn.Module, inputs: Any, options: Mapping[str, Any], facts: Mapping[str, Any]
) -> PrunedOnce:
    """Prune a copy of ``network`` with ``options`` of `prune`; the folder appears when all of it is written.

    In it: ``plan.json``, ``model.safetensors`` (the cut weights; ``model.pt2``, the exported program, of a
    second-tier result), ``report.json`` (``facts``, the options, what went, what stayed and why, the proof) and
    ``undo/`` (the dense weights, for ``neuroprune restore``).

    Raises UserError when the folder is taken, cannot be written, or as `prune` does; then nothing is left behind.
    """
    check_free(folder)
    result = prune(network, inputs, **options)
    done = PrunedOnce(result, cost(network, inputs), cost(result.model, inputs))
    with atomic_folder(folder) as place:
        save_undo(place / "undo", network, result.plan)
        if result.tier == "exported":
            write_bytes(place / "model.pt2", program_bytes(result.model))
        else:
            save_tensors(place / "model.safetensors", result.model.state_dict())
        result.plan.save(place / "plan.json")
        write_json(place / "report.json", report_of(done, {**facts, "options": dict(options)}))
    return done


def report_of(done: PrunedOnce, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document: numbers are counts, ``max_relative_error`` has no unit; null where it is not finite."""
    proof = vars(done.result.verification)
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **facts,
        "tier": done.result.tier,
        "params": {"before": done.before.params, "after": done.after.params},
        "macs": {"before": done.before.macs, "after": done.after.macs},
        "verification": {name: _plain(value) for name, value in proof.items()},
        "refused": [vars(refusal) for refusal in done.result.refused],
        "groups": [
            {
                "group": decision.group,
                "units": len(decision.kept) + len(decision.removed),
                "removed": len(decision.removed),
                "reason": decision.reason,
            }
            for decision in done.result.plan.decisions
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return None if value == float("inf") else value


def summary_of(done: PrunedOnce, folder: Path) -> list[str]:
    """The lines that ``neuroprune prune`` prints: costs, the proof, what stays whole, where the files are."""
    decisions = done.result.plan.decisions
    touched = sum(bool(decision.removed) for decision in decisions)
    units = sum(len(d.kept) + len(d.removed) for d in decisions)
    proof = done.result.verification
    return [
        f"{'':<12}{'before':>16}{'after':>16}",
        _row("parameters", done.before.params, done.after.params),
        _row("MACs", done.before.macs, done.after.macs),
        _row("units", units, sum(len(decision.kept) for decision in decisions)),
        f"{touched} of {len(decisions)} groups were cut; relative error {proof.max_relative_error:.1e} "
        f"over {proof.values:,} values (float64)",
        *refusal_lines(done.result.refused, at_most=10),
        str(folder / "plan.json"),
        str(folder / ("model.pt2" if done.result.tier == "exported" else "model.safetensors")),
        str(folder / "report.json"),
    ]


def trace_lines(found: Trace, counted: Cost) -> list[str]:
    """The lines that ``neuroprune inspect`` prints: every group with its tensors, every cause of a refusal."""
    lines = [f"{counted.params:,} parameters, {counted.macs:,} MACs per example"]
    for group in found.groups:
        changes = ", statistics change" if group.statistics else ""
        lines.append(f"  {group.name}: {group.size} units ({group.kind}{changes})")
        lines += [f"      {part.tensor}, dimension {part.dim}" for part in group.slices]
    return lines + refusal_lines(found.refused)


def _row(name: str, before: int, after: int) -> str:
    change = f"{before / after:>9.2f}x less" if after else ""
    return f"{name:<12}{before:>16,}{after:>16,}{change}"


def refusal_lines(refused: Sequence[Refusal], *, at_most: int | None = None) -> list[str]:
    """One line per cause: the same reason at the same place, however many tensors it holds; most tensors first."""
    causes: dict[tuple[str, str, str], list[Refusal]] = {}
    for refusal in refused:
        causes.setdefault((refusal.reason, refusal.operator, refusal.where), []).append(refusal)
    ranked = sorted(causes.values(), key=len, reverse=True)
    lines = [_line(same) for same in ranked[:at_most]]
    if len(ranked) > len(lines):
        lines.append(f"  and {len(ranked) - len(lines)} more causes; all of them are in report.json")
    return lines


def _line(same: Sequence[Refusal]) -> str:
    first = same[0]
    more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
    place = ", ".join(part for part in (first.operator, first.module, first.where) if part)
    what = f"{first.parameter}, dimension {first.dim}" if first.dim >= 0 else f"the block {first.module}"
    return f"  stays whole: {what}{more}: {first.reason} ({place})"
