"""This run beside figures that were published for the same pipeline."""

from __future__ import annotations

from neuroprune.report.results import Results
from neuroprune.report.section import Section, Table, number_column, text_column
from neuroprune.report.wording import quantity


def section(results: Results) -> Section | None:
    rows = results.published
    if not rows:
        return None
    table = Table(
        "Published figures beside this run's",
        (
            text_column("Figure"),
            number_column("Published"),
            number_column("Here, validation"),
            number_column("test"),
        ),
        [(row.what, *(quantity(value, row.unit) for value in (row.published, row.val, row.test))) for row in rows],
    )
    lead = f"{rows[0].source}. Data, splits and training may differ; the recipe below says what was done here."
    return Section(
        "published", "Beside the published figures", "Published", "table.html.j2", {"lead": lead, "table": table}
    )
