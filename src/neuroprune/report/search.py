"""The page of a search: the best so far against evaluations, the front of score and cost, the chosen network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroprune.base import files
from neuroprune.report.build import page
from neuroprune.report.figures import Chart, figure, line, titled
from neuroprune.report.section import Section, Table, code_column, number_column
from neuroprune.report.wording import percent, plain, plural


def build_search(document: Mapping[str, Any], out: Path, *, title: str) -> None:
    """Write the page of ``document`` (``search.json``) to ``out``, whole or not at all.

    All text is taken for hostile and escaped. Raises UserError when ``out`` cannot be written.
    """
    facts = [
        f"strategy {document['strategy']}", plural(document["evaluations"], "evaluation"),
        f"{document['distinct']} networks", f"dense {document['metric']} {plain(document['dense'])} %",
        "every score measured on validation data",
    ]  # fmt: skip
    files.write_text(out, page(title, facts, [_curve(document), _groups(document)], kind="search"))


def _curve(document: Mapping[str, Any]) -> Section:
    curve, front = document["curve"], document["front"]
    kind, metric = document["front_kind"], document["metric"]
    best = Chart(
        "chart-curve",
        figure(
            [line("best so far", [float(n) for n in range(1, len(curve) + 1)], curve, "@accent")],
            x=titled("evaluations"), y=titled(f"{metric} (%)"),
        ),
        alt=f"Best {metric} so far against evaluations: from {plain(curve[0])} to {plain(curve[-1])}.",
        caption="Best network within the budget after each evaluation, before its whole recovery.",
    )  # fmt: skip
    pareto = Chart(
        "chart-front",
        figure(
            [line("front", [100 * one["share"] for one in front], [one["score"] for one in front], "@good")],
            x=titled(f"{kind} (% of dense)"), y=titled(f"{metric} (%)"),
        ),
        alt=f"{metric} against {kind} of the {plural(len(front), 'point')} that no other one beats in both.",
        caption="Networks that no other one that was tried beats in both.",
    )  # fmt: skip
    return Section("curve", "What the search found", "Curve", "sensitivity.html.j2",
                   {"lead": _lead(document), "charts": [best, pareto], "table": None})  # fmt: skip


def _lead(document: Mapping[str, Any]) -> str:
    final = document["final"]
    costs = ", ".join(f"{kind} {percent(one['now'] / one['dense'], 1)} of dense"
                      for kind, one in final["costs"].items())  # fmt: skip
    return (
        f"The best network had {document['metric']} {plain(document['best']['result']['score'])} % on trial and "
        f"{plain(final['score'])} % in the end; {costs}."
    )


def _groups(document: Mapping[str, Any]) -> Section:
    columns = (code_column("Group"), number_column("Units"), number_column("Kept"), number_column("Share"))
    rows = [
        (one["group"], str(one["units"]), str(one["kept"]), percent(one["kept"] / one["units"], 0))
        for one in document["best"]["groups"]
    ]
    changed = [f"{name}: gone" for name in document["best"]["point"]["gone"]]
    changed += [f"{name}: 1x1 kernel" for name in document["best"]["point"]["shrunk"]]
    lead = "In the order in which their layers run." + (f" Also {'; '.join(changed)}." if changed else "")
    return Section("groups", "The chosen widths", "Widths", "sensitivity.html.j2",
                   {"lead": lead, "charts": [], "table": Table("The chosen widths", columns, rows)})  # fmt: skip
