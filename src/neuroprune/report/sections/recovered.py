"""What recovery without labels made good: the error of each layer or block before and after."""

from __future__ import annotations

from collections import Counter

from neuroprune.report.results import Recovered, Results
from neuroprune.report.section import Section, Table, code_column, number_column, text_column
from neuroprune.report.wording import percent, plural

_COLUMNS = (
    text_column("Rung"),
    code_column("Layer or block"),
    number_column("Error before"),
    number_column("Error after"),
    text_column("Detail"),
)


def section(results: Results) -> Section | None:
    if not results.recovered:
        return None
    rows = [(r.rung, r.layer, percent(r.before, 2), percent(r.after, 2), r.detail) for r in results.recovered]
    return Section(
        "recovered",
        "What recovery without labels made good",
        "Recovery",
        "recovered.html.j2",
        {"lead": _lead(results.recovered), "table": Table("Recovered layers and blocks", _COLUMNS, rows)},
    )


def _lead(recovered: tuple[Recovered, ...]) -> str:
    rungs = ", ".join(f"{name} {n:,}" for name, n in Counter(r.rung for r in recovered).items())
    return (
        f"{plural(len(recovered), 'step')} ({rungs}). Errors are measured on the calibration examples: the "
        "squared difference from the dense network's value there, over the variance of that value."
    )
