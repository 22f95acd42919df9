"""The last word: the test split is touched here, once, and the table and the verdict follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from neuroprune.base.nouns import Budget, Cost, Measurement
from neuroprune.devices.energy import energy_measurement
from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.steps.measure import VARIANTS
from neuroprune.pipeline.verdict import Figures, binding, misses
from neuroprune.report.wording import change, quantity, speed


def final_facts(context: Context) -> dict[str, Any]:
    """``test``, ``table`` and ``verdict``; computed by the first step that asks, the same for all after it."""
    if "verdict" not in context.facts:
        before, after = (v for v in context.facts["variants"] if v["role"] in ("control", "final"))
        test = _test(context, after["name"])
        dense, mine = (
            replace(Figures.of_variant(variant), metric=test[key])
            for variant, key in ((before, "before"), (after, "after"))
        )
        missed = misses(mine, dense, context.recipe.budget, context.recipe.header.max_drop)
        missed = {**context.facts["missed"], **missed}
        context.facts |= {
            "test": test,
            "table": _table(context, before, after, test),
            "verdict": _verdict(context, missed, before, after, test),
        }
    return {key: context.facts[key] for key in ("test", "table", "verdict")}


def _test(context: Context, chosen: str) -> dict[str, Any]:
    """The metric on the test split, of the dense network and of the file that is shipped."""
    task = context.task
    session = EXPORTS.get("onnx").load(context.files[VARIANTS[chosen][0]], context.recipe.header.threads)
    return {
        "before": task.evaluate(context.dense, task.test),
        "after": task.evaluate(OnnxModule(session), task.test),
        "is_val": bool(task.preprocessing.get("test_is_val")),
    }


def _verdict(
    context: Context, missed: dict[str, float], before: dict[str, Any], after: dict[str, Any], test: dict[str, Any]
) -> dict[str, Any]:
    unit = context.task.metric_unit
    split = "val" if test["is_val"] else "test"
    figures = (
        f"{after['name']}: {speed(before['latency']['cpu_p50_ms'], after['latency']['cpu_p50_ms'])}, "
        f"{change(before['size_bytes'], after['size_bytes'], 'smaller', 'larger')} file, {context.task.metric} "
        f"{quantity(test['before'], unit)} -> {quantity(test['after'], unit)} on {split}"
    )
    if not missed:
        limits = bool(context.recipe.budget.limits) or context.recipe.header.max_drop is not None
        return {"ok": True, "binding": None, "text": f"{'All limits hold. ' if limits else ''}{figures}"}
    name = binding(missed)
    others = sorted(set(missed) - {name})
    also = f", and also {', '.join(others)}" if others else ""
    gap = _shortfall(context, name or "", before, after, test)
    text = f"The budget is not met: {gap}{also}. Best reached: {figures}"
    return {"ok": False, "binding": name, "text": text}


def _shortfall(
    context: Context, name: str, before: dict[str, Any], after: dict[str, Any], test: dict[str, Any]
) -> str:
    if name == "max_drop":
        drop = max(test["before"] - test["after"], before["metric"] - after["metric"])
        split = "val" if drop > test["before"] - test["after"] else "test"
        return (
            f"{context.task.metric} falls by {drop:.3g} on {split}, allowed is {context.recipe.header.max_drop:g}"
        )
    limit = next(limit for limit in context.recipe.budget.limits if limit.kind == name)
    dense, mine = (getattr(Figures.of_variant(v), name) for v in (before, after))
    unit = {"latency": "ms", "size": "B"}.get(name, "")
    share = f" ({limit.value:g} of dense)" if limit.relative else ""
    return f"{name} is {quantity(mine, unit)}, allowed is {quantity(limit.absolute(dense), unit)}{share}"


def _table(
    context: Context, before: dict[str, Any], after: dict[str, Any], test: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of before | after | change | target; every one says whether it was measured or modelled."""
    budget = context.recipe.budget
    rows = [
        _row("Parameters", "", before["params"], after["params"], budget, "params", "counted"),
        _row("MACs", "", before["macs"], after["macs"], budget, "macs", "counted, per example"),
        _row("File size", "B", before["size_bytes"], after["size_bytes"], budget, "size",
             f"the ONNX file that goes to the device: {after['name']}"),
        _metric_row(context, test),
    ]  # fmt: skip
    if "coded" in context.facts:
        coded = context.facts["coded"]
        detail = f"{coded['file']} entropy coded into model.npc, which unpacks to it"
        rows.append(_row("Coded size", "B", coded["dense_bytes"], coded["bytes"], Budget(), "", detail))
    if context.masks is not None:
        counts = (_nonzero(context.dense), _nonzero(context.model))
        rows.insert(1, _row("Non-zero parameters", "", *counts, budget, "", "counted; zeros alone give no speed"))
    for key, label in (
        ("cpu_p50_ms", "Latency p50 (CPU)"),
        ("cpu_p90_ms", "Latency p90 (CPU)"),
        ("wall_p50_ms", "Latency p50 (wall)"),
        ("wall_p90_ms", "Latency p90 (wall)"),
    ):
        latency = after["latency"]
        detail = f"{latency['threads']} thread(s), batch {latency['batch']}, {latency['runs']} runs, interleaved"
        limit = "latency" if key == "cpu_p50_ms" else ""
        rows.append(_row(label, "ms", before["latency"][key], latency[key], budget, limit, detail))
    rows.append(_memory_row(before, after))
    rows.append(_energy_row(before, after))
    return rows


def _nonzero(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters())


def _row(
    metric: str,
    unit: str,
    before: float | None,
    after: float | None,
    budget: Budget,
    kind: str,
    detail: str,
    provenance: str = "measured",
) -> dict[str, Any]:
    target, met = None, None
    for limit in budget.limits:
        if limit.kind == kind and before is not None and after is not None:
            allowed = limit.absolute(before)
            share = f" ({limit.value:g} of dense)" if limit.relative else ""
            target, met = f"<= {quantity(allowed, unit)}{share}", after <= allowed
    known = before is not None and after is not None
    return {
        "metric": metric,
        "unit": unit,
        "kind": provenance if known else "unavailable",
        "before": before,
        "after": after,
        "change": change(before, after, "less", "more"),
        "target": target,
        "met": met,
        "detail": detail,
    }


def _metric_row(context: Context, test: dict[str, Any]) -> dict[str, Any]:
    max_drop, task = context.recipe.header.max_drop, context.task
    drop = test["before"] - test["after"]
    points = "points" if task.metric_unit == "%" else task.metric_unit
    moved = f"{round(-drop, 2) + 0.0:+.2f}" if task.metric_unit == "%" else f"{-drop:+.3g}"
    target = None
    if max_drop is not None:
        target = f">= {quantity(test['before'] - max_drop, task.metric_unit)} (drop <= {max_drop:g})"
    return {
        "metric": f"{task.metric.capitalize() if task.metric.islower() else task.metric} "
        f"({'val' if test['is_val'] else 'test'})",
        "unit": task.metric_unit,
        "kind": "measured",
        "before": test["before"],
        "after": test["after"],
        "change": f"{moved} {points}".rstrip(),
        "target": target,
        "met": None if max_drop is None else drop <= max_drop + 1e-9,
        "detail": "there is no test split: this is val, on which the file was chosen"
        if test["is_val"]
        else "the split is evaluated once, at the end; nothing was chosen on it",
    }


def _memory_row(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    detail = "resident peak of a process with numpy, the runtime and the network"
    if after["baseline_memory_bytes"]:
        detail += f"; {after['baseline_memory_bytes'] / 1e6:.0f} MB of it before the network was loaded"
    return _row("Peak memory", "B", before["peak_memory_bytes"], after["peak_memory_bytes"], Budget(), "", detail)


def _energy_row(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    dense, mine = _energy(before, "fp32"), _energy(after, "int8" if "int8" in after["name"] else "fp32")
    return _row("Energy per inference", dense.unit, dense.value, mine.value, Budget(), "", mine.detail, dense.kind)


def _energy(variant: dict[str, Any], dtype: Literal["fp32", "int8"]) -> Measurement:
    counted = Cost(variant["params"], variant["macs"], variant["weight_bytes"])
    return energy_measurement(counted, dtype=dtype)
