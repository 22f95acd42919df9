"""Horizontal bars with their figures written at the end: readable without hovering, on paper and on a phone."""

from __future__ import annotations

from collections.abc import Sequence

from neuroprune.report.figures import Trace, drawable, drawables, label, labels


def bars(
    name: str,
    values: Sequence[float | None],
    rows: Sequence[float],
    colours: Sequence[str] | str,
    width: float,
) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": label(name),
        "x": drawables(values),
        "y": list(rows),
        "width": width,
        "hoverinfo": "skip",
        "marker": {"color": colours if isinstance(colours, str) else list(colours), "line": {"width": 0}},
    }


def whiskers(values: Sequence[float | None], ends: Sequence[float | None]) -> dict[str, object]:
    """Error bars from each value up to its end (a percentile); none where the end is absent or smaller."""
    pairs = zip(drawables(values), drawables(ends), strict=True)
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, end - value) if value is not None and end is not None else 0.0 for value, end in pairs],
        "arrayminus": [0.0] * len(values),
        "thickness": 1.2,
        "width": 3,
        "color": "@muted",
    }


def end_labels(ends: Sequence[float | None], rows: Sequence[float], texts: Sequence[str]) -> Trace:
    """``texts`` just right of ``ends``; where a bar is missing the text starts at zero."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": [drawable(end) or 0.0 for end in ends],
        "y": list(rows),
        "text": [f" {text}" for text in labels(texts)],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def room(ends: Sequence[float | None], share: float = 0.55) -> list[float]:
    """The axis range that leaves ``share`` of the longest bar free on the right for the texts."""
    longest = max((end for end in drawables(ends) if end is not None), default=0.0)
    return [0.0, (longest or 1.0) * (1 + share)]
