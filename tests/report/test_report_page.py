"""The page in a real browser: quiet, drawn, usable on a phone, legible in light and dark, deaf to markup."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.browser import BEYOND, MARKS, POOR_CONTRAST, STRUCTURE, Watched, chromium, watching
from report.sample import HOSTILE, missed_results, sample_results

from neuroprune.report import build_report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    build_report(sample_results(), out)
    return out


@pytest.fixture(scope="module")
def wide(browser: Any, report: Path) -> Iterator[Watched]:
    """The page on a desk, in light; the tests that share it only look."""
    with watching(browser, report) as watched:
        yield watched


def drawn(watched: Watched) -> dict[str, int]:
    """Chart id -> number of marks (bars, points, lines, texts) in its SVG."""
    found: dict[str, int] = watched.page.evaluate(MARKS)
    return found


def test_every_chart_is_drawn_and_the_page_is_quiet(wide: Watched) -> None:
    marks = drawn(wide)
    assert set(marks) == {
        "chart-size", "chart-latency", "chart-pareto", "chart-curve-0-loss", "chart-curve-0-metric",
        "chart-curve-1-loss", "chart-curve-1-metric", "chart-curve-2-loss", "chart-curve-2-metric",
        "chart-round-reward", "chart-round-sparsity", "chart-round-metric", "chart-layers",
        "chart-clusters",
    }  # fmt: skip
    assert all(marks.values()), marks
    wide.open_all()
    marks = drawn(wide)
    assert len(marks) == 14 + 9
    assert all(marks.values()), marks
    assert wide.quiet(), (wide.requests, wide.console, wide.dialogs)


def test_structure_for_those_who_cannot_see_it(wide: Watched) -> None:
    facts = wide.page.evaluate(STRUCTURE)
    levels = facts["headings"]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(role == "img" and length > 20 for role, length in facts["charts"])
    assert {what: n for what, n in facts["stumbles"].items() if n} == {}
    assert wide.page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("results", [sample_results(), missed_results()], ids=["met", "missed"])
def test_contrast_in_light_and_dark_and_charts_follow_a_change_at_run_time(
    browser: Any, tmp_path: Path, results: dict[str, Any]
) -> None:
    build_report(results, tmp_path / "r.html")
    look = """() => [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("#chart-pareto .xtick text")).fill,
        getComputedStyle(document.querySelector("#chart-layers .bars path")).fill]"""
    seen: dict[str, list[str]] = {}
    with watching(browser, tmp_path / "r.html") as watched:
        watched.open_all()
        for scheme in ("light", "dark", "light"):
            watched.page.emulate_media(color_scheme=scheme)
            watched.page.wait_for_timeout(400)
            result = watched.page.evaluate(POOR_CONTRAST)
            assert result["poor"] == [], scheme
            assert result["seen"] > 800
            colours = watched.page.evaluate(look)
            assert seen.setdefault(scheme, colours) == colours
        assert watched.quiet(), watched.console
    assert all(a != b for a, b in zip(seen["light"], seen["dark"], strict=True)), seen


def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    with watching(browser, report, width=390, scheme="dark") as watched:
        watched.open_all()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert watched.page.evaluate(BEYOND) == []
        assert all(drawn(watched).values())
        sizes = watched.page.evaluate("[...document.querySelectorAll('.chart .main-svg')].map(s => s.clientWidth)")
        assert max(sizes) <= 390
        watched.page.set_viewport_size({"width": 1000, "height": 800})
        watched.page.wait_for_timeout(500)
        assert watched.page.evaluate("document.querySelector('#chart-pareto .main-svg').clientWidth") > 500
        assert watched.quiet()


def test_markup_in_names_stays_inert(browser: Any, tmp_path: Path) -> None:
    build_report(sample_results(hostile=True), tmp_path / "hostile.html")
    with watching(browser, tmp_path / "hostile.html", width=390) as watched:
        watched.open_all()
        page = watched.page
        assert page.evaluate("document.querySelectorAll('img, [onerror]').length") == 0
        assert page.evaluate("document.querySelectorAll('script').length") == 2 + page.evaluate(
            "document.querySelectorAll('script[type=\"application/json\"]').length"
        )
        assert page.locator(".unit-group code.name").first.text_content().startswith(HOSTILE)
        assert page.locator("#refused td code").first.text_content().startswith(HOSTILE)
        # in a chart the name is shortened in its middle; what is left of the markup is text
        ticks = page.locator("#chart-layers .ytick text").all_text_contents()
        assert all(tick.startswith("</scrip") for tick in ticks)
        assert page.locator(".unit-rows td").nth(3).text_content().startswith(HOSTILE)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(BEYOND) == []
        assert watched.quiet(), (watched.console, watched.dialogs)


def test_the_browser_itself_refuses_other_scripts_and_requests(browser: Any, report: Path) -> None:
    with watching(browser, report) as watched:
        outcome = watched.page.evaluate(
            """async () => {
              const script = document.createElement("script"), box = document.createElement("div");
              script.textContent = "window.ran = 1";
              box.innerHTML = "<b onclick='window.ran = 2'>x</b>";
              document.body.append(script, box);
              box.firstChild.click();
              const fetched = await fetch("https://example.invalid/").then(() => "sent", () => "refused");
              return [window.ran === undefined, fetched];
            }"""
        )
        assert outcome == [True, "refused"]
        assert sum("Content Security Policy" in line for line in watched.console) >= 3
        assert watched.requests == [watched.url] or "example.invalid" in watched.requests[-1]


def test_five_thousand_units_stay_quick_and_nothing_is_dropped_silently(browser: Any, tmp_path: Path) -> None:
    results = sample_results(units=5000)
    results["units"] += [
        {"group": "huge", "unit": i, "score": i / 4000, "threshold": 0.5, "kept": i >= 2000,
         "reason": "even" if i % 2 == 0 else "odd", "constraint": "size"} for i in range(4000)
    ]  # fmt: skip
    build_report(results, tmp_path / "big.html")
    with watching(browser, tmp_path / "big.html") as watched:
        page = watched.page
        before = page.evaluate("document.querySelectorAll('*').length")
        assert before < 9000  # the rows of closed groups are not there yet
        group = page.locator(".unit-group", has=page.locator("code.name", has_text="huge"))
        group.locator("summary").click()
        rows = group.locator("tbody tr")
        assert rows.count() == 100
        assert "100 of 4,000 rows shown, 3,900 left out" in group.locator(".more").text_content()
        assert "Every 3rd unit is drawn: 1,334 of 4,000." in group.locator("figcaption").text_content()
        assert group.locator(".points path").count() == 1334
        group.get_by_role("button", name="Show 100 more").click()
        assert rows.count() == 200
        assert "200 of 4,000 rows shown, 3,800 left out" in group.locator(".more").text_content()

        page.fill("#unit-search", "odd")
        page.wait_for_timeout(300)
        assert page.locator("#unit-status").text_content() == "2,000 units in 1 of 10 groups match."
        assert page.locator(".unit-group:visible").count() == 1
        page.select_option("#unit-state", "stayed")
        page.select_option("#unit-order", "high")
        assert "100 of 1,000 rows shown, 900 left out" in group.locator(".more").text_content()
        assert rows.first.locator("th").text_content() == "3,999"
        page.fill("#unit-search", "no such thing")
        page.wait_for_timeout(300)
        assert page.locator("#unit-status").text_content() == "0 units in 0 of 10 groups match."
        assert watched.quiet(), watched.console


def test_odd_numbers_draw_without_complaint(browser: Any, tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    results = sample_results()
    for i, unit in enumerate(results["units"][:32]):
        unit["score"] = (nan, inf, None, -inf, 1e300, 0.5, 5e-324)[i % 7]
    for i, layer in enumerate(results["layers"]):
        layer["after"] = (nan, None, inf, 1e18, 0)[i % 5]
    for i, candidate in enumerate(results["candidates"]):
        candidate["metric"] = (nan, 1e300, None, 50.0)[i % 4]
        candidate["latency_ms"] = (1.0, 1e-30, inf)[i % 3]
    results["curves"][0]["epochs"] = [{"epoch": 1, "train_loss": nan, "val_loss": 1e12}]
    results["curves"][-1]["epochs"] = [{"epoch": None, "train_loss": None}]
    results["rounds"] = [{"round": 1, "reward": nan, "sparsity": None}, {"round": 2, "reward": 1e200}]
    results["variants"][0] = {"name": "nothing known", "role": "control"}
    results["variants"][1]["size_bytes"] = 10**400
    build_report(results, tmp_path / "odd.html")
    with watching(browser, tmp_path / "odd.html") as watched:
        watched.open_all()
        assert watched.quiet(), watched.console
        assert watched.page.evaluate("document.querySelectorAll('.chart:not(:has(.main-svg))').length") == 0


def test_paper_is_light_and_no_wider_than_a_page(browser: Any, report: Path) -> None:
    with watching(browser, report, scheme="dark") as watched:
        page = watched.page
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        widths = page.evaluate("[...document.querySelectorAll('.chart .main-svg')].map(s => s.clientWidth)")
        assert max(widths) <= 660
        assert page.evaluate(POOR_CONTRAST)["poor"] == []
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.emulate_media(media="screen", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.wait_for_timeout(200)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert page.evaluate("document.querySelector('#chart-pareto .main-svg').clientWidth") > 700
