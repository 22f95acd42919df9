"""What every chart shares: the frozen `Chart`, plain plotly figures, colours by role, values made safe.

A figure is plain data (`data`, `layout`), not a `plotly.graph_objects.Figure`, for two reasons. Colours are
roles ("@accent") that the page looks up in its style sheet, so that a change from light to dark re-themes the
charts; and everything plotly would read as markup is escaped here, once.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from neuroprune.report.wording import shorten

Figure = dict[str, object]
Trace = dict[str, object]

#: not plotly's: the short names of an axis, which the page's script takes out
NARROW = "narrowtext"


@dataclass(frozen=True)
class Chart:
    """One figure of the page. ``alt`` says in words what it shows, for those who cannot see it.

    ``tall`` puts the chart into a box of its own that scrolls, for figures that grow with the network.
    """

    id: str
    figure: Figure = field(repr=False)
    alt: str
    caption: str = ""
    height: int = 300
    tall: bool = False


def label(text: str) -> str:
    """Text for plotly, which would otherwise read ``<b>`` and ``<a href>`` in a layer's name as markup."""
    return html.escape(text, quote=False)


def labels(texts: Iterable[str]) -> list[str]:
    return [label(text) for text in texts]


def drawable(value: float | None) -> float | None:
    """The number if plotly can place it on an axis, else None (a gap)."""
    return value if value is not None and abs(value) < 1e100 and not math.isnan(value) else None


def drawables(values: Iterable[float | None]) -> list[float | None]:
    return [drawable(value) for value in values]


def any_drawable(values: Iterable[float | None]) -> bool:
    return any(drawable(value) is not None for value in values)


def figure(
    traces: Sequence[Trace],
    *,
    x: Mapping[str, object] | None = None,
    y: Mapping[str, object] | None = None,
    **layout: object,
) -> Figure:
    """A figure of ``traces`` with the axes ``x`` and ``y``; the page adds fonts, margins and colours."""
    return {
        "data": list(traces),
        "layout": {"xaxis": dict(x or {}), "yaxis": dict(y or {}), "showlegend": len(traces) > 1, **layout},
    }


def titled(text: str, **more: object) -> dict[str, object]:
    """An axis called ``text``, shortened so that a strange name leaves the chart its room."""
    return {"title": {"text": label(shorten(text, 30))}, **more}


def line(name: str, x: Sequence[float | None], y: Sequence[float | None], colour: str, **more: object) -> Trace:
    """A line through points; a single point is seen as well because the markers are on."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 40 else "lines",
        "name": label(shorten(name, 36)),
        "x": drawables(x),
        "y": drawables(y),
        "line": {"color": colour, "width": 2, **_mapping(more.pop("line", {}))},
        "marker": {"color": colour, "size": 5, **_mapping(more.pop("marker", {}))},
        **more,
    }


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def reversed_rows(names: Sequence[str]) -> dict[str, object]:
    """A category axis that reads from the top down; rows are numbered, so equal names stay two rows.

    The names come long and short; the page takes the short ones where the chart is narrow.
    """
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": labels(shorten(name, 28) for name in names),
        NARROW: labels(shorten(name, 18) for name in names),
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",  # invisible ones keep the names off the bars
        "ticklen": 6,
        "tickcolor": "rgba(0,0,0,0)",
        "fixedrange": True,
    }
