"""The documenting step of a recipe: strategy, hyper-parameters, compression, accuracy, efficiency."""

from __future__ import annotations

from collections.abc import Mapping

from neuroprune.report.results import Results
from neuroprune.report.section import Section
from neuroprune.report.tree import nodes, worded

_ORDER = ("strategy", "hyper_parameters", "compression", "accuracy", "efficiency")


def section(results: Results) -> Section | None:
    document = results.document
    names = [name for name in _ORDER if name in document] + [name for name in document if name not in _ORDER]
    parts = nodes(worded({name: _by_step(document[name]) for name in names if document[name]}))
    if not parts:
        return None
    return Section("document", "Documentation of the run", "Documentation", "document.html.j2", {"parts": parts})


def _by_step(part: object) -> object:
    """Options written ``01-train.epochs`` gathered under their step; everything else as it is."""
    if not isinstance(part, Mapping):
        return part
    gathered: dict[str, object] = {}
    for name, value in part.items():
        step, dot, option = str(name).partition(".")
        inner = gathered.setdefault(step, {}) if dot and option.isidentifier() else None
        if isinstance(inner, dict):
            inner[option] = value
        else:
            gathered[str(name)] = value
    return gathered
