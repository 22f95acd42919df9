"""The table that a run ends with, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from neuroprune.report.wording import quantity


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """before | after | change | target, one line per metric; modelled figures say so."""
    table = Table(title="before and after", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("target")
    table.add_column("kind")
    for row in rows:
        style = "red" if row["met"] is False else None
        table.add_row(
            row["metric"],
            quantity(row["before"], row["unit"]),
            quantity(row["after"], row["unit"]),
            row["change"],
            (row["target"] or "") + ("" if row["met"] is not False else "  missed"),
            row["kind"],
            style=style,
        )
    return table
