"""The file itself, without a browser: what is in it, what never is, and how bad documents are refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from report.sample import HOSTILE, sample_results

from neuroprune.base.errors import UserError
from neuroprune.report import build_report
from neuroprune.report.figures import NARROW, Chart
from neuroprune.report.results import read_results
from neuroprune.report.sections import make_sections

ALL = ["comparison", "pipeline", "variants", "pareto", "curves", "rounds", "layers", "clusters", "units",
       "refused", "steps", "document", "reproduce"]  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: tags with attributes, scripts, and the text outside of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._raw = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._raw = tag
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._raw:
            self.text += data

    def json_blocks(self) -> list[Any]:
        return [json.loads(text) for attrs, text in self.scripts if attrs.get("type") == "application/json"]


def build(tmp_path: Path, **changes: Any) -> tuple[str, Page]:
    out = tmp_path / "report.html"
    build_report({**sample_results(), **changes}, out)
    html = out.read_text()
    return html, Page(html)


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """Chart id -> figure of every chart that the sections of ``results`` would put on the page."""
    found: dict[str, Any] = {}

    def collect(value: object) -> None:
        if isinstance(value, Chart):
            found[value.id] = value.figure
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(item)

    for section in make_sections(read_results(results)):
        collect(section.values)
    return found


def test_sections_stand_in_the_promised_order_after_the_verdict(tmp_path: Path) -> None:
    html, page = build(tmp_path)
    assert [a["id"] for tag, a in page.tags if tag == "section" and a.get("id")] == ALL
    assert html.index('class="verdict ok"') < html.index('id="comparison"')


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    assert build(tmp_path)[0] == build(tmp_path)[0]


@pytest.mark.parametrize(
    ("key", "section"),
    [("variants", "variants"), ("candidates", "pareto"), ("curves", "curves"), ("rounds", "rounds"),
     ("layers", "layers"), ("clusters", "clusters"), ("units", "units"), ("refused", "refused"),
     ("steps", "steps"), ("document", "document")],
)  # fmt: skip
def test_a_section_without_data_is_left_out(tmp_path: Path, key: str, section: str) -> None:
    _, page = build(tmp_path, **{key: None if key == "document" else []})
    ids = [a["id"] for tag, a in page.tags if tag == "section" and a.get("id")]
    links = [a["href"] for tag, a in page.tags if tag == "a" and a.get("href") != "#main"]
    assert ids == [name for name in ALL if name != section and (key, name) != ("steps", "pipeline")]
    assert links == [f"#{name}" for name in ids]


def test_an_almost_empty_document_still_makes_a_page(tmp_path: Path) -> None:
    build_report({"schema": 1}, tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert "Compression report" in page.text
    assert not [a for tag, a in page.tags if tag == "section"]


def test_every_row_says_how_it_is_known(tmp_path: Path) -> None:
    html, _ = build(tmp_path)
    cells = re.findall(r'class="known"><span class="kind (\w+)">(\w+)</span>', html)
    assert cells == [(row["kind"],) * 2 for row in sample_results()["table"]]
    assert {kind for kind, _ in cells} == {"measured", "modelled", "unavailable"}


def test_nothing_points_out_of_the_page(tmp_path: Path) -> None:
    _, page = build(tmp_path)
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "background"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    assert not {"iframe", "object", "embed", "img", "base", "form"} & {tag for tag, _ in page.tags}


def test_the_policy_names_exactly_the_scripts_of_the_page(tmp_path: Path) -> None:
    _, page = build(tmp_path)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    running = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    wanted = {"sha256-" + base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in running}
    assert policy.startswith("default-src 'none'; ")
    assert set(re.findall(r"'(sha256-[^']+)'", policy)) == wanted
    assert len(running) == 2
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_plotly_is_carried_once(tmp_path: Path) -> None:
    html, _ = build(tmp_path)
    assert len(re.findall(r"plotly\.js v\d", html)) == 1


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    build_report(sample_results(hostile=True), tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert "img" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.json_blocks()) + 2
    raw = [text for attrs, text in page.scripts if attrs.get("type") == "application/json"]
    assert not any("<" in text or "\u2028" in text for text in raw)
    for block in page.json_blocks():
        if "data" in block:  # a figure: plotly reads its texts as markup, so they carry none
            assert "<img" not in json.dumps(block)


def test_a_layer_named_like_a_colour_role_stays_a_name() -> None:
    layers = [{"name": "@accent", "before": 4, "after": 2}]
    layout = figures({"layers": layers})["chart-layers"]["layout"]
    assert layout["yaxis"]["ticktext"] == ["@accent"]


def _plain_colours(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_colours(item) for key, item in value.items() if key != NARROW}
    if isinstance(value, list):
        return [_plain_colours(item) for item in value]
    return "#123456" if isinstance(value, str) and value.startswith("@") else value


def test_plotly_itself_accepts_every_figure() -> None:
    found = figures(sample_results())
    assert {"chart-size", "chart-latency", "chart-pareto", "chart-layers", "chart-clusters", "chart-round-reward",
            "chart-curve-1-metric"} <= set(found)  # fmt: skip
    for figure in found.values():
        go.Figure(_plain_colours(figure))  # raises ValueError on an unknown property or value


def test_odd_numbers_make_a_page_and_valid_json(tmp_path: Path) -> None:
    def odd(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: odd(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [odd(v, key) if i % 2 else v for i, v in enumerate(value)]
        if isinstance(value, bool) or not isinstance(value, int | float) or key == "schema":
            return value
        odd.count += 1  # type: ignore[attr-defined]
        return (float("nan"), float("inf"), None, 10**400, -(10**400), 1e300, 0)[odd.count % 7]  # type: ignore[attr-defined]

    odd.count = 0  # type: ignore[attr-defined]
    build_report(odd(sample_results()), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert len(Page(html).json_blocks()) > 3
    assert "NaN" in html
    assert "∞" in html


def test_text_that_no_page_can_hold_is_replaced(tmp_path: Path) -> None:
    _, page = build(tmp_path, title="a\x00b\ud800c", notes=["line\r\nbreak\x1b[31m"])
    assert "a\ufffdb\ufffdc" in page.text
    assert "line\nbreak\ufffd[31m" in page.text


@pytest.mark.parametrize(
    ("document", "where", "what"),
    [
        ([], "results", "holds list where an object belongs"),
        ({"schema": 2}, "schema", "another schema"),
        ({"table": {}}, "table", "holds dict where a list belongs"),
        ({"table": [{"kind": "guessed"}]}, "table[0].kind", "must say how it is known"),
        ({"table": [{"kind": "measured", "before": "many"}]}, "table[0].before", "a number or null"),
        ({"variants": [{"latency": 3}]}, "variants[0].latency", "holds int where an object belongs"),
        ({"units": [{"kept": 1}]}, "units[0].kept", "true, false or null"),
        ({"title": ["x"]}, "title", "holds list where text belongs"),
        ({"machine": "x"}, "machine", "holds str where an object belongs"),
    ],
)
def test_a_malformed_document_is_refused_at_its_spot(tmp_path: Path, document: Any, where: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        build_report(document, tmp_path / "r.html")
    assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.mend
    assert list(tmp_path.iterdir()) == []


def test_a_refused_document_leaves_the_old_report_alone(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(UserError):
        build_report({"schema": 99}, out)
    assert out.read_text() == "old"


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        build_report({"schema": 1}, tmp_path / "file" / "report.html")


def test_a_long_table_says_what_it_leaves_out(tmp_path: Path) -> None:
    refused = [{"parameter": f"p{i}", "reason": "no rule"} for i in range(512)]
    html, page = build(tmp_path, refused=refused)
    assert "212 more rows are left out here" in page.text
    assert "<code>p299</code>" in html
    assert "<code>p300</code>" not in html


def test_an_unavailable_figure_shows_no_number(tmp_path: Path) -> None:
    row = {"metric": "Energy", "kind": "unavailable", "unit": "mJ", "before": None, "after": None}
    html, _ = build(tmp_path, table=[row])
    cells = re.findall(r'<td role="cell" class="num [^>]*>(.*?)</td>', html)
    assert [re.sub(r"<[^>]+>", "", cell) for cell in cells] == ["—", "—", "—"]
