"""What was left uncut because a cut could not be proven, with the operator and the line of source."""

from __future__ import annotations

from collections import Counter

from neuroprune.report.results import Refused, Results
from neuroprune.report.section import Section, Table, code_column, text_column
from neuroprune.report.wording import plural

_COLUMNS = (
    code_column("Parameter"),
    code_column("Operator"),
    code_column("Module"),
    code_column("Where"),
    text_column("Reason"),
)


def section(results: Results) -> Section | None:
    if not results.refused:
        return None
    rows = [(r.parameter, r.operator, r.module, r.where, r.reason) for r in results.refused]
    return Section(
        "refused",
        "What was refused, and why",
        "Refused",
        "refused.html.j2",
        {
            "lead": f"{plural(len(rows), 'parameter was', 'parameters were')} left uncut: a cut is made "
            "only where it can be proven equal to the masked dense network.",
            "reasons": _frequent(results.refused),
            "table": Table("Refused cuts", _COLUMNS, rows),
        },
    )


def _frequent(refused: tuple[Refused, ...]) -> list[tuple[str, int]]:
    """The reasons that hold for several parameters; none where the table alone is as short."""
    counts = Counter(r.reason for r in refused)
    return [(reason, n) for reason, n in counts.most_common(8) if n > 1] if len(counts) < len(refused) else []
