"""The run as a flow chart: one box per step, in order, with what it said last."""

from __future__ import annotations

from neuroprune.report.results import Results
from neuroprune.report.section import Section


def section(results: Results) -> Section | None:
    if len(results.steps) < 2:
        return None
    boxes = [{"title": step.title or step.name, "kind": step.name.partition("-")[2]} for step in results.steps]
    return Section("pipeline", "The pipeline", "Pipeline", "flow.html.j2", {"boxes": boxes})
