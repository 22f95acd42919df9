"""The ninth step of S2: write down strategy, hyper-parameters, compression, accuracy and efficiency."""

from __future__ import annotations

from typing import Any

from neuroprune.base.files import write_text
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.final import final_facts
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.report.wording import quantity

FILE = "DOCUMENT.md"


class DocumentConfig(StepConfig):
    """Options of `document`: none of its own."""


@step(
    "document",
    DocumentConfig,
    summary="write strategy, hyper-parameters, compression, accuracy and efficiency to DOCUMENT.md",
    source="S2, step 9",
    needs=("variants",),
)
def document(context: Context, config: DocumentConfig) -> Outcome:
    final = final_facts(context)
    found = {
        "strategy": _strategy(context),
        "hyper_parameters": _hyper_parameters(context),
        **_figures(context, final),
    }
    text = _markdown(context, found)
    write_text(context.step_folder / FILE, text)
    write_text(context.folder.root / FILE, text)
    return Outcome(f"{FILE}: {', '.join(found)}", facts={**final, "document": found}, files=(FILE,))


def _strategy(context: Context) -> dict[str, Any]:
    names = [record["name"].split("-", 1)[1] for record in context.finished]
    chosen = {"steps": " -> ".join(names), "criterion": context.facts.get("criterion")}
    for record in context.finished:
        for key in ("granularity", "scope"):
            if key in record["options"]:
                chosen[key] = record["options"][key]
    if context.plan is not None:
        kept = context.plan.kept_fraction().values()
        chosen["units kept"] = f"{sum(kept) / max(len(kept), 1):.1%} on average over {len(kept)} groups"
    return {key: value for key, value in chosen.items() if value is not None}


def _hyper_parameters(context: Context) -> dict[str, Any]:
    header = context.recipe.header
    found: dict[str, Any] = {
        "seed": header.seed,
        "budget": ", ".join(map(str, context.recipe.budget.limits)) or "none",
        "max_drop": header.max_drop,
    }
    for record in context.finished:
        for key, value in record["options"].items():
            if key != "stage" and value not in (None, [], ()) and _counts(record["options"], key):
                found[f"{record['name']}.{key}"] = value
    return found


def _counts(options: dict[str, Any], key: str) -> bool:
    """Whether the option does anything, as the others of its step are set."""
    if key in ("gamma", "milestones"):
        return options.get("schedule") == "step"
    if key in ("temperature", "alpha", "features"):
        return bool(options.get("distill", True))
    return key != "min_delta" or options.get("patience") is not None


def _figures(context: Context, final: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = {row["metric"]: row for row in final["table"]}

    def shown(row: dict[str, Any]) -> str:
        before, after = (quantity(row[key], row["unit"]) for key in ("before", "after"))
        return f"{before} -> {after} ({row['change']}, {row['kind']})"

    groups: dict[str, dict[str, Any]] = {"compression": {}, "accuracy": {}, "efficiency": {}}
    for name, row in rows.items():
        if row["before"] is None or row["after"] is None:
            continue
        if name in ("Parameters", "MACs", "File size", "Coded size"):
            groups["compression"][name] = shown(row)
        elif row["unit"] == context.task.metric_unit and row is final["table"][3]:
            groups["accuracy"][name] = shown(row)
        else:
            groups["efficiency"][name] = shown(row)
    for label, value in context.facts["validation"].items():
        groups["accuracy"][f"{context.task.metric} on val, {label}"] = (
            f"{value:.4g} {context.task.metric_unit}".strip()
        )
    return groups


def _markdown(context: Context, found: dict[str, dict[str, Any]]) -> str:
    title = context.recipe.header.title or context.recipe.header.name
    lines = [f"# {title}", "", context.facts["verdict"]["text"], ""]
    for section, values in found.items():
        lines += [f"## {section.replace('_', ' ').capitalize()}", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {str(value).replace('|', '/')} |" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)
