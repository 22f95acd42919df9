"""Every network that was measured, beside the dense control of the same run: bytes and milliseconds."""

from __future__ import annotations

from neuroprune.report.results import Results, Variant
from neuroprune.report.section import Section, Table, number_column, short_column
from neuroprune.report.sections.variant_charts import latency_chart, same_conditions, size_chart
from neuroprune.report.wording import count, plain, size

_COLUMNS = (
    short_column("Variant"),
    short_column("Role"),
    number_column("File size"),
    number_column("CPU p50 / p90, ms"),
    number_column("Wall p50 / p90, ms"),
    number_column("Peak memory"),
    number_column("Quality"),
    number_column("Parameters"),
    number_column("MACs"),
)
_CONDITIONS = number_column("Threads / batch / runs")


def section(results: Results) -> Section | None:
    if not results.variants:
        return None
    charts = [chart for chart in (size_chart(results), latency_chart(results)) if chart is not None]
    return Section(
        "variants",
        "Variants and the dense control",
        "Variants",
        "variants.html.j2",
        {"charts": charts, "table": _table(results), "lead": _lead(results), "metric": results.metric},
    )


def _lead(results: Results) -> str:
    chosen = next((v for v in results.variants if v.chosen), None)
    first = f"Chosen for the device: {chosen.name}. " if chosen else ""
    if results.control is None:
        return first + "No dense control was measured in this run, so it supports no claim about speed."
    return first + f"The dense control, {results.control.name}, was measured in the same run."


def _table(results: Results) -> Table:
    told = same_conditions(results.variants) is not None  # then the chart's caption says it once
    return Table(
        "Every measured variant with the dense control",
        _COLUMNS if told else (*_COLUMNS, _CONDITIONS),
        [_cells(v) if told else (*_cells(v), _condition(v)) for v in results.variants],
        marked=frozenset(i for i, v in enumerate(results.variants) if v.chosen),
    )


def _cells(v: Variant) -> tuple[str, ...]:
    latency = v.latency
    return (
        v.name,
        f"{v.role}, chosen" if v.chosen else v.role,
        size(v.size_bytes),
        _pair(latency.cpu_p50, latency.cpu_p90) if latency else "—",
        _pair(latency.wall_p50, latency.wall_p90) if latency else "—",
        size(v.peak_memory_bytes),
        plain(v.metric),
        count(v.params),
        count(v.macs),
    )


def _condition(v: Variant) -> str:
    return f"{v.latency.threads} / {v.latency.batch} / {v.latency.runs:,}" if v.latency else "—"


def _pair(p50: float | None, p90: float | None) -> str:
    return f"{plain(p50, 3)} / {plain(p90, 3)}"
