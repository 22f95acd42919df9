"""The table of docs/training_free.md out of the records; only averaging, nothing is measured here."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

from measuring.records import RESULTS, Record, Records

FILE = RESULTS / "training_free.jsonl"
KEY = ("model", "method", "ratio", "subset")
CONTROLS = ("random", "l1", "l1+bn")
RUNGS = ("none", "closed-form", "reconstruct", "distill")
NAMES = {"random": "random", "l1": "L1", "l1+bn": "L1, batch norm estimated anew", "none": "OBS, no refit",
         "closed-form": "closed form", "reconstruct": "+ reconstruction", "distill": "+ distillation"}  # fmt: skip
HEAD = ("network", "fewer MACs", "method", "accuracy", "drop", "agreement", "JPEG agreement", "CPU s", "peak MB",
        "subsets")  # fmt: skip


def half_width(record: Record) -> float:
    """Half of the 95 % interval of the paired drop, in points, from the pairs in which the two networks differ
    (Agresti 2013, section 11.1.1)."""
    lost, won, n = record["lost"], record["won"], record["examples"]
    return 100 * 1.96 * math.sqrt(max(lost + won - (lost - won) ** 2 / n, 0.0)) / n


def rows() -> dict[tuple[str, float, str], list[Record]]:
    found = defaultdict(list)
    for record in Records(FILE, KEY).all():
        if record["status"] == "done":
            found[record["model"], record["ratio"], record["method"]].append(record)
    order = [*CONTROLS, *RUNGS]
    return dict(sorted(found.items(), key=lambda item: (*item[0][:2], order.index(item[0][2]))))


def training_free() -> str:
    """Means over the calibration subsets, standard deviations in brackets."""
    found = rows()
    if not found:
        return "Not measured yet."
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for (model, ratio, method), group in found.items():
        drop = statistics.mean(100 * (r["lost"] - r["won"]) / r["examples"] for r in group)
        width = statistics.mean(map(half_width, group))
        cells = [model, f"{ratio:g}x", NAMES[method], _mean(group, "accuracy"), f"{drop:.2f} ± {width:.2f}",
                 _mean(group, "agreement"), _mean(group, "jpeg_agreement"), _mean(group, "cpu_s", 0),
                 f"{max(r['peak_mb'] for r in group):.0f}", str(len(group))]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(group: Sequence[Record], key: str, digits: int = 2) -> str:
    values = [record[key] for record in group if record.get(key) is not None]
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
