"""What a cascade's document says, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """The operating points, the cheapest first: accuracy and measured latency on the test data, beside dense."""
    test, levels = document["test"], document["levels"]
    dense = test["dense"]
    lines = [
        f"{len(levels)} nested levels, {document['precision']}; thresholds chosen on "
        f"{document['validation_examples']:,} validation examples, "
        f"measured on {test['examples']:,} test examples ({test['timed']:,} timed)",
        f"  {'':<16} {'levels asked':<14} {'accuracy':>9} {'mean ms':>9} {'p90 ms':>9} {'of dense':>9}",
        _line("dense", "", dense, dense),
    ]  # fmt: skip
    ranked = sorted(test["points"].items(), key=lambda item: float(item[1]["mean_ms"]))
    lines += [_line(name, ", ".join(map(str, row["path"])), row, dense) for name, row in ranked]
    chosen = document["operating_points"][document["default"]]
    return [*lines, f"operating point {document['default']}: threshold {chosen['threshold']:.4g}"]


def _line(name: str, path: str, row: Mapping[str, Any], dense: Mapping[str, Any]) -> str:
    share = row["mean_ms"] / max(dense["mean_ms"], 1e-12)
    figures = f"{row['accuracy']:>8.2f}% {row['mean_ms']:>9.4f} {row['p90_ms']:>9.4f} {share:>8.2f}x"
    return f"  {name:<16} {path:<14} {figures}"
