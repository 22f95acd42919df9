"""Sections about shipped weights, published figures and the pipeline: what they say, and when they say nothing."""

from __future__ import annotations

from typing import Any

from report.sample import sample_results

from neuroprune.report.build import render
from neuroprune.report.results import read_results
from neuroprune.report.sections import flow, published, weights


def _row(name: str, scale: int) -> dict[str, Any]:
    return {
        "name": name, "weights": 1000 * scale, "dense_bytes": 4000 * scale, "cut_bytes": 2000 * scale,
        "final_bytes": 500 * scale, "dense_distinct": 900 * scale, "cut_distinct": 400, "final_distinct": 9,
        "final_values": 70, "control_distinct": 200,
    }  # fmt: skip


def test_weights_are_drawn_as_shares_of_the_dense_layer() -> None:
    rows = [_row("whole network", 3), _row("conv", 1), _row("head", 2)]
    section = weights.section(read_results({"weights": rows}))
    assert section is not None
    lead = str(section.values["lead"])
    assert "12 KB are 6 KB after pruning and 1.5 KB in the file" in lead
    assert "2,700 distinct numbers are 9 (300\N{MULTIPLICATION SIGN} fewer)" in lead
    assert "would leave 200" in lead
    (chart,) = section.values["charts"]  # type: ignore[misc]
    bars = {trace["name"]: trace["x"] for trace in chart.figure["data"] if trace["type"] == "bar"}
    assert bars == {"dense": [100, 100], "after pruning": [50, 50], "in the shipped file": [12.5, 12.5]}
    table = section.values["table"]
    assert list(table.rows[1])[:3] == ["conv", "1,000", "4 KB"]  # type: ignore[attr-defined]


def test_published_figures_stand_beside_ours() -> None:
    row = {
        "source": "A paper",
        "what": "accuracy, dense",
        "unit": "%",
        "published": 78.5,
        "val": 80.0,
        "test": None,
    }
    section = published.section(read_results({"published": [row]}))
    assert section is not None
    assert str(section.values["lead"]).startswith("A paper.")
    (cells,) = section.values["table"].rows  # type: ignore[attr-defined]
    assert list(cells) == ["accuracy, dense", "78.50 %", "80.00 %", "\N{EM DASH}"]


def test_nothing_to_say_is_no_section() -> None:
    empty = read_results({})
    assert weights.section(empty) is None
    assert published.section(empty) is None
    assert flow.section(empty) is None


def test_the_pipeline_has_a_box_per_step_in_order() -> None:
    page = render(read_results({"steps": [{"name": "01-train", "title": "Train <it>"}, {"name": "02-cut"}]}))
    assert page.index("Train &lt;it&gt;") < page.index("02-cut")
    assert '<ol class="flow">' in page


def test_the_whole_page_draws_them() -> None:
    rows = [_row("whole network", 3), _row("conv", 1)]
    published_row = {"source": "S", "what": "w", "unit": "x", "published": 80, "val": 90, "test": None}
    page = render(read_results({**sample_results(), "weights": rows, "published": [published_row]}))
    for title in ("What is left of every layer's weights", "Beside the published figures", "The pipeline"):
        assert title.replace("'", "&#39;") in page
