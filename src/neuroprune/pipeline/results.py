"""One JSON document with everything a run found out: what the report is drawn from."""

from __future__ import annotations

import datetime
from typing import Any

from neuroprune.base.versions import versions
from neuroprune.devices.facts import machine_facts
from neuroprune.pipeline.attempts import ended_as
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.final import final_facts
from neuroprune.pipeline.published import published_rows
from neuroprune.pipeline.weights import weight_rows

SCHEMA = 1

#: points of a percentage: more than luck between two splits of a few hundred examples
SEEN_POINTS = 5.0

#: lists that steps append to, in the order of results.json
PIECES = (
    "curves", "rounds", "tickets", "layers", "clusters", "candidates", "units", "refused", "recovered",
    "quantized", "notes",
)  # fmt: skip


def assemble(context: Context) -> dict[str, Any]:
    """results.json, schema 1. Needs the facts of `measure`."""
    header = context.recipe.header
    final = final_facts(context)
    pieces: dict[str, list[Any]] = {name: list(context.pieces.get(name, [])) for name in PIECES}
    tried = [{**row, "chosen": False} for row in pieces["candidates"]]  # the files it became are chosen, not it
    pieces["candidates"] = tried + context.abandoned + ended_as(context)
    pieces["layers"] = pieces["layers"] or _masked_layers(context)
    dense = context.facts["variants"][0]
    if context.task.metric_unit == "%" and dense["metric"] - final["test"]["before"] > SEEN_POINTS:
        pieces["notes"].append(
            f"The dense network is much better on val ({dense['metric']:.1f} %) than on test "
            f"({final['test']['before']:.1f} %): it was probably trained on examples of val, so the "
            "drop on val is overstated."
        )
    if final["test"]["is_val"]:
        pieces["notes"].append("There is no test split: the final metric is that of the validation split.")
    weights = weight_rows(context)
    return {
        "schema": SCHEMA,
        "title": header.title or header.name,
        "recipe": context.recipe.text,
        "versions": versions(),
        "machine": machine_facts(),
        "seed": header.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verdict": final["verdict"],
        "table": final["table"],
        "variants": context.facts["variants"],
        "steps": [
            {key: record[key] for key in ("name", "title", "seconds", "summary")} for record in context.finished
        ],
        "document": context.facts.get("document"),
        "weights": weights,
        "published": published_rows(context, weights),
        **pieces,
    }


def _masked_layers(context: Context) -> list[dict[str, Any]]:
    """Without a cut: how many values of each masked tensor are still on."""
    return [
        {
            "name": name,
            "before": mask.numel(),
            "after": int(mask.sum()),
            "params_before": mask.numel(),
            "params_after": int(mask.sum()),
        }
        for name, mask in (context.masks or {}).items()
        if mask.dim() >= 2
    ]
