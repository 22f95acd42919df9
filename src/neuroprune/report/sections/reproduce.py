"""What it takes to run this again: recipe, seed, versions, machine."""

from __future__ import annotations

from neuroprune.report.results import Results
from neuroprune.report.section import Section
from neuroprune.report.tree import Node, nodes, worded


def section(results: Results) -> Section | None:
    run = tuple(Node(name, text) for name, text in (("created", results.created), ("seed", results.seed)) if text)
    blocks = [
        (title, tree)
        for title, tree in (
            ("Run", run),
            ("Machine", nodes(worded(results.machine))),
            ("Versions", nodes(results.versions)),
        )
        if tree
    ]
    if not blocks and not results.recipe:
        return None
    values = {"recipe": results.recipe, "blocks": blocks}
    return Section("reproduce", "Recipe, versions and machine", "Recipe", "reproduce.html.j2", values)
