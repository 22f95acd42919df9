"""results.json, the page drawn from it, and the folder that leaves the house."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from neuroprune.base.files import write_text
from neuroprune.compression.artifact import CODED, ModelSpec, write_artifact
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.final import final_facts
from neuroprune.pipeline.results import assemble
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.document import FILE as DOCUMENT
from neuroprune.pipeline.steps.export import INT8, MODEL, STORED
from neuroprune.pipeline.steps.measure import VARIANTS
from neuroprune.pruning.plan import Plan
from neuroprune.report import build_report


class ReportConfig(StepConfig):
    """Options of `report`: none of its own."""


@step(
    "report",
    ReportConfig,
    summary="results.json, report.html and the artifact folder",
    source="S2, step 9; S3's monitoring table",
    needs=("variants",),
)
def report(context: Context, config: ReportConfig) -> Outcome:
    results = assemble(context)
    # not sorted by key: the report shows tables in this order, also when it is drawn again from the file
    write_text(context.folder.results, json.dumps(results, indent=2, allow_nan=False) + "\n")
    build_report(results, context.folder.report)
    _artifact(context, results)
    return Outcome(str(results["verdict"]["text"]), facts=final_facts(context))


def _artifact(context: Context, results: dict[str, Any]) -> None:
    spec = context.recipe.header.model
    names = (MODEL, INT8, STORED, CODED, DOCUMENT)
    shipped = {name: context.files[name] for name in names if name in context.files}
    cut = context.plan if context.is_cut else None
    write_artifact(
        context.folder.artifact,
        model=context.model,
        plan=cut or Plan.identity(context.dense),
        dense_spec=replace(
            ModelSpec() if spec is None else ModelSpec(spec.spec, spec.kwargs), head=context.facts.get("head")
        ),
        example_inputs=context.task.example_inputs,
        files={**shipped, "report.html": context.folder.report},
        measurements={key: results[key] for key in ("created", "machine", "verdict", "table", "variants")},
        preprocessing=context.task.preprocessing,
        best=VARIANTS[context.facts["chosen"]][0],
    )
