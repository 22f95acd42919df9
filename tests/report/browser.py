"""Headless Chromium for the tests of the page: every request, console message and dialog is written down."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip

#: every text on the page with too little contrast: [text, ratio]; sizes do not matter, all must reach 4.5
POOR_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const linear = (v) => (v <= .04045 * 255 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4);
  const light = (c) => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const ground = (node) => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) layers.push(rgba(getComputedStyle(n).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const poor = []; let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || node.closest("script, style, noscript, .sr-only, .skip")) continue;
    if (!node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const colour = rgba(node instanceof SVGElement ? style.fill : style.color);
    const below = ground(node), mine = light(over(colour, below)), theirs = light(below);
    const ratio = (Math.max(mine, theirs) + .05) / (Math.min(mine, theirs) + .05);
    seen += 1;
    if (ratio < 4.5) poor.push([walk.currentNode.data.trim().slice(0, 40), ratio, node.className]);
  }
  return { poor, seen };
}"""


#: chart -> number of marks (bars, points, lines, texts) in its SVG
MARKS = """() => Object.fromEntries([...document.querySelectorAll(".chart")].map((div, i) => [
  div.id || "unit" + i,
  div.querySelectorAll(".cartesianlayer :is(path.point, .point path, .js-line, .textpoint)").length,
]))"""

#: what a screen reader, a keyboard or a validator would stumble over
STRUCTURE = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const named = (n) => n.labels?.length || n.textContent.trim() || n.getAttribute("aria-label");
  const ids = all("[id]").map((n) => n.id);
  return {
    headings: all("h1, h2, h3, h4").map((h) => Number(h.tagName[1])),
    charts: all(".chart").map((c) => [c.getAttribute("role"), (c.getAttribute("aria-label") || "").length]),
    stumbles: {
      "table without a name": all("table").filter((t) => !t.caption && !t.closest("[aria-label]")).length,
      "id given twice": ids.length - new Set(ids).size,
      "link to nowhere": all("a[href^='#']").filter((a) => !document.getElementById(a.hash.slice(1))).length,
      "control without a name": all("input, select, button").filter((n) => !named(n)).length,
      "scrolled without a keyboard": all(".scroll, .tall, pre").filter((n) => n.tabIndex !== 0).length,
    },
  };
}"""

#: what sticks out of the page on the right without a box of its own to scroll in
BEYOND = """() => [...document.querySelectorAll("main *, header *, footer *")].filter((n) =>
  n.getClientRects().length && n.getBoundingClientRect().right > innerWidth + 1
  && !n.closest(".scroll, .wide, pre, .sr-only, .chart")).map((n) => n.outerHTML.slice(0, 80))"""


@dataclass
class Watched:
    """A page and everything it did that it should not."""

    page: Any
    url: str
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def quiet(self) -> bool:
        """True when the page fetched itself, once, and complained about nothing."""
        return self.requests == [self.url] and not self.console and not self.dialogs

    def open_all(self, limit: int = 100) -> None:
        """Open every folded part, as a reader would."""
        self.page.evaluate(
            "n => [...document.querySelectorAll('details')].slice(0, n).forEach(d => d.open = true)", limit
        )
        self.page.wait_for_timeout(300)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where it is not installed (CI installs it)."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra brings playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watching(browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> Iterator[Watched]:
    """``path`` opened from the disk, its charts drawn."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched = Watched(context.new_page(), path.as_uri())
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("console", lambda message: watched.console.append(f"{message.type}: {message.text}"))
    watched.page.on("pageerror", lambda error: watched.console.append(f"error: {error}"))

    def note(dialog: Any) -> None:
        watched.dialogs.append(dialog.message)
        dialog.dismiss()

    watched.page.on("dialog", note)
    try:
        watched.page.goto(watched.url)
        watched.page.wait_for_selector("html[data-charts=drawn]", state="attached")
        yield watched
    finally:
        context.close()
