"""What the run did, in order, and how long each step took."""

from __future__ import annotations

from neuroprune.report.figures import drawable
from neuroprune.report.results import Results
from neuroprune.report.section import Section
from neuroprune.report.wording import plural, seconds


def section(results: Results) -> Section | None:
    if not results.steps:
        return None
    known = [drawable(step.seconds) or 0.0 for step in results.steps]
    longest, total = max(known) or 1.0, sum(known)
    views = [
        {
            "title": step.title or step.name,
            "name": step.name,
            "seconds": seconds(step.seconds),
            "share": round(100 * known[i] / longest, 1),
            "summary": step.summary,
        }
        for i, step in enumerate(results.steps)
    ]
    lead = f"{plural(len(views), 'step')} in {seconds(total)}."
    return Section("steps", "What the run did", "Steps", "steps.html.j2", {"steps": views, "lead": lead})
