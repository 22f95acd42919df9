"""The section of lottery tickets: what is drawn, on inputs written out; figures that are none; hostile names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.sample import HOSTILE

from neuroprune.report import build_report
from neuroprune.report.results import read_results
from neuroprune.report.sections.lottery import section

ROWS: list[dict[str, Any]] = [
    {"kind": "dense", "round": 0, "sparsity": 0.0, "metric": 98.0, "chosen": False},
    {"kind": "ticket", "round": 1, "sparsity": 0.5, "metric": 98.5, "chosen": False},
    {"kind": "ticket", "round": 2, "sparsity": 0.75, "metric": 98.0, "chosen": True},
    {"kind": "reinit", "round": 2, "sparsity": 0.75, "metric": 95.0, "chosen": False},
]


def made(rows: list[dict[str, Any]]) -> Any:
    found = section(read_results({"schema": 1, "tickets": rows}))
    assert found is not None
    return found.values


def test_without_tickets_there_is_no_section() -> None:
    assert section(read_results({"schema": 1})) is None


def test_a_line_for_each_kind_and_a_level_for_the_dense_network() -> None:
    values = made(ROWS)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in values["charts"][0].figure["data"]}
    assert lines == {
        "ticket": ([50.0, 75.0], [98.5, 98.0]),
        "other initial weights": ([75.0], [95.0]),
        "dense": ([0.0, 75.0], [98.0, 98.0]),
    }
    assert "round 2, 75" in values["lead"]
    assert [row[-1] for row in values["table"].rows] == ["", "", "yes", ""]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e300])
def test_figures_that_are_none_make_a_page(value: float | None, tmp_path: Path) -> None:
    rows = [{**row, "metric": value, "sparsity": value} for row in ROWS]
    build_report({"schema": 1, "tickets": rows}, tmp_path / "r.html")
    assert not made(rows)["charts"]


def test_a_kind_of_another_version_is_shown_and_escaped(tmp_path: Path) -> None:
    build_report({"schema": 1, "tickets": [{**ROWS[1], "kind": HOSTILE}]}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=x" in page
