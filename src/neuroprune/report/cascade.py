"""The page of a cascade: accuracy against mean and p90 latency, operating points, levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroprune.base import files
from neuroprune.report.build import page
from neuroprune.report.figures import Chart, figure, line, titled
from neuroprune.report.section import Column, Section, Table, code_column, number_column, short_column
from neuroprune.report.wording import milliseconds, percent, plain, plural, quantity, size

Row = Mapping[str, Any]


def build_cascade_page(document: Mapping[str, Any], out: Path, *, title: str) -> None:
    """Write the page of ``document`` (a cascade's ``cascade.json``) to ``out``, whole or not at all.

    All text is taken for hostile and escaped. Raises UserError when ``out`` cannot be written.
    """
    facts = [
        plural(document["validation_examples"], "validation example"),
        plural(document["test"]["examples"], "test example"),
        document["precision"],
        f"right is {document['right_is']}",
    ]
    sections = [_curve(document), _points(document), _levels(document)]
    files.write_text(out, page(title, facts, sections, kind="cascade"))


def _curve(document: Mapping[str, Any]) -> Section:
    test = document["test"]
    lead = (
        "Thresholds were chosen on the validation data; what is drawn was measured on the test data, one example "
        f"a call, {plural(test['timed'], 'example')} timed, the dense network "
        f"({milliseconds(test['dense']['mean_ms'])}, {test['dense']['accuracy']:.2f} %) in turns with every point."
    )
    singles = [row for row in test["points"].values() if len(row["path"]) == 1]
    cascades = sorted(test["curve"], key=lambda row: row["mean_ms"])
    traces = [
        _line("cascades, mean", cascades, "mean_ms", "@accent", "solid"),
        _line("cascades, p90", cascades, "p90_ms", "@contrast", "dot"),
        _line("single levels", singles, "mean_ms", "@dense", "solid", mode="markers"),
        _line("dense network", [test["dense"]], "mean_ms", "@ink", "solid", mode="markers"),
    ]
    chart = Chart(
        "chart-cascade",
        figure(traces, x=titled("CPU time of a call (ms)", rangemode="tozero"), y=titled("accuracy (%)")),
        alt=f"Accuracy against latency of {plural(len(cascades), 'point')} of the cascade, of single levels and "
        "of the dense network.",
        caption="Accuracy on the test data against the mean and the 90th percentile of a call's time, measured.",
        height=400,
    )
    return Section("curve", "Accuracy against latency", "Curve", "sensitivity.html.j2",
                   {"lead": lead, "charts": [chart], "table": None})  # fmt: skip


def _line(name: str, rows: Sequence[Row], key: str, colour: str, dash: str, **more: object) -> dict[str, object]:
    x, y = [row[key] for row in rows], [row["accuracy"] for row in rows]
    return line(name, x, y, colour, line={"dash": dash}, **more)


def _points(document: Mapping[str, Any]) -> Section:
    columns: tuple[Column, ...] = (
        code_column("Point"), short_column("Levels asked"), number_column("Threshold"),
        number_column("Accuracy, validation"), number_column("Accuracy, test"), number_column("Mean"),
        number_column("p90"), number_column("Longest call"), number_column("Answers of each level"),
    )  # fmt: skip
    cells = [_cells(name, document["operating_points"][name], row) for name, row in _measured(document)]
    lead = (
        f"The runner starts at {document['default']}. lose-X: the least mean latency at no more than X points "
        "less than the dense network on the validation data. Means and p90 are measured on the test data; the "
        "longest call, where every level is asked, is the sum of the levels' measured latencies."
    )
    return Section("points", "Operating points", "Points", "sensitivity.html.j2",
                   {"lead": lead, "charts": [], "table": Table("Operating points", columns, cells)})  # fmt: skip


def _measured(document: Mapping[str, Any]) -> Sequence[tuple[str, Row]]:
    return sorted(document["test"]["points"].items(), key=lambda item: float(item[1]["mean_ms"]))


def _cells(name: str, chosen: Row, row: Row) -> tuple[str, ...]:
    threshold = "" if len(row["path"]) == 1 else plain(row["threshold"])
    return (
        name, ", ".join(map(str, row["path"])), threshold,
        f"{chosen['accuracy']:.2f} %", f"{row['accuracy']:.2f} %",
        milliseconds(row["mean_ms"]), milliseconds(row["p90_ms"]), milliseconds(chosen["worst_ms"]),
        ", ".join(percent(share, 0) for share in row["shares"]),
    )  # fmt: skip


def _levels(document: Mapping[str, Any]) -> Section:
    columns: list[Column] = [
        code_column("File"), number_column("MACs"), number_column("Bytes"), number_column("Latency"),
        number_column("Energy (modelled)"), number_column("Accuracy, validation"), number_column("Temperature"),
        number_column("Calibration error before"), number_column("after"),
    ]  # fmt: skip
    cells = [
        (
            row["file"], quantity(row["macs"], "macs"), size(row["bytes"]), milliseconds(row["ms"]),
            quantity(row["uj"], "uJ"), f"{row['accuracy']:.2f} %", plain(row["temperature"], 3),
            percent(row["calibration_error_before"]), percent(row["calibration_error"]),
        )
        for row in document["levels"]
    ]  # fmt: skip
    lead = (
        "Every level keeps only units that the next one keeps; its weights are its own. The expected calibration "
        "error is taken on the validation data, on which the temperature was fitted too."
    )
    return Section("levels", "Levels", "Levels", "sensitivity.html.j2",
                   {"lead": lead, "charts": [], "table": Table("Levels", tuple(columns), cells)})  # fmt: skip
