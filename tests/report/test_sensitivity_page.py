"""The page of a sensitivity analysis: every group drawn and in the table, quiet in a browser, deaf to markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.browser import BEYOND, MARKS, POOR_CONTRAST, STRUCTURE, chromium, watching
from report.sample import HOSTILE

from neuroprune.base.errors import UserError
from neuroprune.report import build_sensitivity

RATIOS = [0.2, 0.4, 0.6, 0.8]


def document(groups: int, *, metric: bool = True, prefix: str = "layer") -> dict[str, Any]:
    """As `Sensitivity.to_json` gives it: group n loses n points per fifth of its ten units."""
    curves = []
    for n in range(groups):
        points = [
            {
                "ratio": ratio,
                "removed": round(10 * ratio),
                "divergence": None if n == 1 and ratio > 0.7 else 0.001 * (n + 1) * ratio,
                "agreement": 100.0 - n * ratio,
                "metric": 90.0 - 5 * n * ratio if metric else None,
            }
            for ratio in RATIOS
        ]
        curves.append(
            {"group": f"{prefix}.{n}", "units": 10, "kind": "channel", "refitted": n == 0, "points": points}
        )
    head = (
        {"metric": "accuracy", "unit": "%", "dense": 90.0} if metric else {"metric": "", "unit": "", "dense": None}
    )
    options = {"ratios": RATIOS, "criterion": "l2", "recover": False}
    return {"schema": 1, "kind": "measured", "curves": curves, "examples": 1500, "options": options, **head}


def written(path: Path, groups: int, **options: Any) -> str:
    made = document(groups, **options)
    ranked = [curve["group"] for curve in made["curves"]][::-1]
    build_sensitivity(made, path, ranked=ranked, title="a network")
    return path.read_text()


def test_the_table_has_every_group_most_sensitive_first(tmp_path: Path) -> None:
    text = written(tmp_path / "s.html", 12)
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    assert [table.index(f"<code>layer.{n}</code>") for n in reversed(range(12))] == sorted(
        table.index(f"<code>layer.{n}</code>") for n in range(12)
    )
    assert table.count(">measured<") == 12
    assert "1,500 examples" in text
    assert "dense accuracy 90 %" in text


def test_how_much_can_go_by_hand(tmp_path: Path) -> None:
    """Group 1 loses a point at a fifth: within; group 2 two points: not. Without labels an error of 1 % is it."""

    def can_go(text: str, group: str) -> str:
        row = text[text.index(f"<code>{group}</code>") :]
        return row[: row.index("</tr>")].split("</td>")[6].rpartition(">")[2]

    rated = written(tmp_path / "s.html", 12)
    assert [can_go(rated, f"layer.{n}") for n in (0, 1, 2)] == ["80 %", "20 %", "0 %"]
    plain = written(tmp_path / "s.html", 30, metric=False)
    assert can_go(plain, "layer.19") == "40 %"  # 0.02 times the ratio
    assert can_go(plain, "layer.1") == "60 %"  # not finite at four fifths


@pytest.mark.parametrize(("groups", "metric"), [(1, True), (4, True), (60, True), (60, False)])
def test_the_page_is_drawn_and_quiet(tmp_path: Path, groups: int, metric: bool) -> None:
    written(tmp_path / "s.html", groups, metric=metric)
    with chromium() as browser, watching(browser, tmp_path / "s.html", scheme="dark") as watched:
        marks = watched.page.evaluate(MARKS)
        assert set(marks) == {"chart-divergence", "chart-agreement", *(["chart-metric"] if metric else [])}
        assert all(marks.values())
        lines = "document.querySelectorAll('#chart-agreement .cartesianlayer .js-line').length"
        assert watched.page.evaluate(lines) == groups
        assert watched.page.evaluate("document.querySelectorAll('#chart-agreement .legendtext').length") <= 5
        facts = watched.page.evaluate(STRUCTURE)
        assert {what: n for what, n in facts["stumbles"].items() if n} == {}
        assert watched.page.evaluate(POOR_CONTRAST)["poor"] == []
        assert watched.quiet(), (watched.requests, watched.console)


def test_markup_in_names_stays_text_and_a_phone_is_wide_enough(tmp_path: Path) -> None:
    written(tmp_path / "s.html", 8, prefix=HOSTILE)
    with chromium() as browser, watching(browser, tmp_path / "s.html", width=390) as watched:
        assert watched.quiet(), (watched.requests, watched.console, watched.dialogs)
        assert watched.page.evaluate(BEYOND) == []
        assert HOSTILE in watched.page.inner_text("tbody")


def test_the_same_document_gives_the_same_bytes_and_a_folder_in_the_way_is_said(tmp_path: Path) -> None:
    assert written(tmp_path / "a.html", 3) == written(tmp_path / "b.html", 3)
    (tmp_path / "c.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        written(tmp_path / "c.html", 3)
