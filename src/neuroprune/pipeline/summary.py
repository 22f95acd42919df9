"""The table that a run ends with, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


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
            shown(row["before"], row["unit"]),
            shown(row["after"], row["unit"]),
            row["change"],
            (row["target"] or "") + ("" if row["met"] is not False else "  missed"),
            row["kind"],
            style=style,
        )
    return table


def shown(value: float | None, unit: str) -> str:
    """A number with its unit as a person reads it: 2,612.3 KB, 0.243 ms, 98.89 %."""
    if value is None:
        return "-"
    if unit == "B":
        return f"{value / 1e6:,.2f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} KB"
    if unit == "" and float(value).is_integer():
        return f"{int(value):,}"
    digits = 2 if unit == "%" else 4
    text = f"{value:,.2f}" if digits == 2 else f"{value:,.{digits}g}"
    return f"{text} {unit}".rstrip()
