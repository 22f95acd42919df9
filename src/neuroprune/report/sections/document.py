"""The documenting step of a recipe: strategy, hyper-parameters, compression, accuracy, efficiency."""

from __future__ import annotations

from neuroprune.report.results import Results
from neuroprune.report.section import Section
from neuroprune.report.tree import nodes, worded


def section(results: Results) -> Section | None:
    parts = nodes(worded({name: part for name, part in results.document.items() if part}))
    if not parts:
        return None
    return Section("document", "Documentation of the run", "Documentation", "document.html.j2", {"parts": parts})
