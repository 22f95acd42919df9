"""The section of clustered weights: what is drawn, on inputs written out; figures that are none; hostile names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.sample import HOSTILE

from neuroprune.report import build_report
from neuroprune.report.results import read_results
from neuroprune.report.sections.clusters import section
from neuroprune.report.wording import TIMES

LAYERS: list[dict[str, Any]] = [
    {"name": "conv1", "entries": 432, "before": 400, "after": 16, "error": 0.0025},
    {"name": "fc", "entries": 640, "before": 640, "after": 16, "error": 0.004},
    {"name": "empty", "entries": 0, "before": 0, "after": 0, "error": 0.0},
]
FOUND = {
    "step": "cluster", "k": 16, "distortion": None, "scope": "tensor", "entries": 1072, "before": 1030,
    "after": 31, "layers": LAYERS,
}  # fmt: skip


def made(*found: dict[str, Any]) -> Any:
    made = section(read_results({"schema": 1, "clusters": list(found)}))
    assert made is not None
    return made.values


def test_without_clustering_there_is_no_section() -> None:
    assert section(read_results({"schema": 1})) is None


def test_bars_of_both_counts_and_a_row_for_each_layer() -> None:
    values = made({**FOUND, "k": 300}, FOUND)
    before, after, texts = values["charts"][0].figure["data"]
    assert (before["x"], after["x"]) == ([400, 640], [16, 16])
    assert [text.strip() for text in texts["text"]] == ["400 to 16", "640 to 16"]
    assert values["table"].rows == [
        ("conv1", "432", "400", "16", f"25{TIMES}", "0.0025"),
        ("fc", "640", "640", "16", f"40{TIMES}", "0.004"),
        ("empty", "0", "0", "0", "", "0"),
    ]
    assert "k-means per tensor, 16 values: 1,072 weights of 3 layers had 1,030 distinct" in values["lead"]
    assert f"and have 31, 33.2{TIMES} fewer" in values["lead"]
    assert "2 of them; 1 are only in the table" in values["lead"]


def test_a_distortion_is_named() -> None:
    assert "a distortion of 0.01:" in made({**FOUND, "k": None, "distortion": 0.01})["lead"]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1.0, 1e300])
def test_figures_that_are_none_make_a_page(value: float | None, tmp_path: Path) -> None:
    keys = ("entries", "before", "after", "error")
    layers = [{**layer, **dict.fromkeys(keys, value)} for layer in LAYERS]
    found = {**FOUND, **dict.fromkeys((*keys[:3], "k", "distortion"), value), "layers": layers}
    build_report({"schema": 1, "clusters": [found]}, tmp_path / "r.html")
    assert len(made(found)["table"].rows) == 3


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    found = {**FOUND, "scope": HOSTILE, "layers": [{**LAYERS[0], "name": HOSTILE}]}
    build_report({"schema": 1, "clusters": [found]}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=x" in page
