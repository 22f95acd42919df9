"""Tables of docs/mlperf_tiny.md and docs/second_order.md out of the records; nothing is measured here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, made_with, table
from neuroprune.base.files import read_json

METHODS = ("l1", "l1+bn", "none", "closed-form", "reconstruct", "distill", "finetune")
#: percent that MLPerf Tiny's Closed division asks for
ASKED = {"ds-cnn": 90, "resnet8": 85}


def tiny() -> str:
    """Mean (standard deviation) over calibration subsets, per model, ratio, method and allocation."""
    records = [r for r in Records(RESULTS / "mlperf_tiny.jsonl").all() if r["status"] == "done"]
    if not records:
        return NOTHING
    groups: dict[tuple[str, float, int, str], list[Record]] = defaultdict(list)
    for record in records:
        place = METHODS.index(record["method"])
        groups[record["model"], record["ratio"], place, record["allocation"]].append(record)
    head = (
        "network",
        "MACs",
        "method",
        "allocation",
        "dense",
        "accuracy",
        "subsets at the target",
        "agreement",
        "CPU s",
    )
    rows = [
        (model, f"{ratio:g}x fewer", METHODS[place], "" if place < 2 else allocation,
         _mean(group, "dense_accuracy"), _mean(group, "accuracy"),
         f"{sum(r['accuracy'] >= ASKED[model] for r in group)} of {len(group)}",
         _mean(group, "agreement"), _mean(group, "cpu_s", 0))
        for (model, ratio, place, allocation), group in sorted(groups.items())
    ]  # fmt: skip
    return table(head, rows) + f"\n\n{made_with(records)}"


def _mean(group: Sequence[Record], key: str, digits: int = 1) -> str:
    values = [record[key] for record in group]
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def second_order() -> str:
    """Seconds against channels."""
    path = RESULTS / "obs_scale.json"
    layers = read_json(path)["layers"].values() if path.exists() else ()
    done = [one for one in layers if one["status"] == "done"]
    if not done:
        return NOTHING
    rows = [
        ("3x3" if one["kernel"] == 9 else "1x1", one["channels"], one["columns"], f"{one['rank_cpu_s']:.2f}",
         f"{one['least_squares_cpu_s']:.3f}", f"{one['peak_mb']:.0f}")
        for one in sorted(done, key=lambda one: (one["kernel"], one["channels"]))
    ]  # fmt: skip
    head = (
        "kernel",
        "channels",
        "columns",
        "order of removal, CPU s",
        "one refit, CPU s",
        "peak MB of the process",
    )
    return table(head, rows) + f"\n\n{made_with(done)}"


def _told(record: Record | None, key: str, digits: int) -> str:
    """A figure, or why there is none."""
    if record is None:
        return "not measured"
    return f"{record[key]:.{digits}f}" if record["status"] == "done" else str(record["status"])


def samples() -> str:
    """Seconds and memory against samples."""
    scale, memory = RESULTS / "obs_scale.json", RESULTS / "statistics_memory.json"
    if not (scale.exists() and memory.exists()):
        return NOTHING
    times, stages = read_json(scale)["samples"], read_json(memory)
    rows = [
        (
            count,
            _told(times[count], "statistics_cpu_s", 1),
            *(_told(one.get(count), "more_mb", 0) for one in stages.values()),
        )
        for count in sorted(times, key=int)
    ]
    head = ("samples", "statistics, CPU s", *(f"{stage}, MB more" for stage in stages))
    measured = [*times.values(), *(record for one in stages.values() for record in one.values())]
    return table(head, rows) + f"\n\n{made_with(measured)}"


TABLES = {"mlperf-tiny": tiny, "second-order-channels": second_order, "second-order-samples": samples}
