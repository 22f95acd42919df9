"""The sections of the page, in the order a reader meets them; each is a function Results -> Section or None."""

from __future__ import annotations

from collections.abc import Callable

from neuroprune.report.results import Results
from neuroprune.report.section import Section
from neuroprune.report.sections import (
    clusters,
    comparison,
    curves,
    document,
    flow,
    layers,
    lottery,
    pareto,
    published,
    quantized,
    recovered,
    refused,
    reproduce,
    rounds,
    steps,
    units,
    variants,
    weights,
)

SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    comparison.section,
    published.section,
    flow.section,
    variants.section,
    pareto.section,
    curves.section,
    rounds.section,
    lottery.section,
    recovered.section,
    layers.section,
    weights.section,
    clusters.section,
    quantized.section,
    units.section,
    refused.section,
    steps.section,
    document.section,
    reproduce.section,
)


def make_sections(results: Results) -> list[Section]:
    """The sections that have something to say; one without data is left out, not drawn empty."""
    made = (make(results) for make in SECTIONS)
    return [section for section in made if section is not None]
