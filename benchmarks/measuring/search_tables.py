"""Tables of docs/search.md out of the records; nothing is measured here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, made_with, table

FILE, KEY = RESULTS / "search.jsonl", ("strategy", "seed")


def by_strategy() -> dict[str, list[Record]]:
    """Strategy -> its records, the best agreement on the JPEG images first."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in Records(FILE, KEY).all():
        found[record["strategy"]].append(record)
    return dict(sorted(found.items(), key=lambda one: -_mean(one[1], "jpeg_agreement")))


def _mean(records: Sequence[Record], key: str) -> float:
    return statistics.mean(record[key] for record in records)


def told(records: Sequence[Record], key: str, digits: int = 1) -> str:
    """Mean (standard deviation) over the seeds that have the figure."""
    values = [record[key] for record in records if record.get(key) is not None]
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def strategies() -> str:
    found = by_strategy()
    if not found:
        return NOTHING
    head = ("proposed by", "seeds", "evaluations", "networks", "score on trial", "accuracy", "agreement",
            "agreement, JPEG", "agreement, training images", "CPU s per evaluation")  # fmt: skip
    rows = [
        (name, len(records), told(records, "evaluations", 0).split(" ")[0] or "0", told(records, "distinct", 0),
         told(records, "score"), told(records, "accuracy"), told(records, "agreement"),
         told(records, "jpeg_agreement"), told(records, "train_agreement"), told(records, "evaluation_s", 2))
        for name, records in found.items()
    ]  # fmt: skip
    every = [record for records in found.values() for record in records]
    spent = sum(record.get("evaluating_s") or 0.0 for record in every) / 60
    dense = every[0]["dense_accuracy"]
    return (
        f"{table(head, rows)}\n\nMean (standard deviation) over seeds; dense accuracy {dense:.2f}. All "
        f"evaluations together took {spent:.0f} minutes of CPU time on one thread. {made_with(every)}"
    )


def curves() -> str:
    """The best score on trial after so many evaluations."""
    found = {name: records for name, records in by_strategy().items() if records[0].get("curve")}
    if not found:
        return NOTHING
    shown = [
        n for n in (1, 10, 25, 50, 100, 200) if n <= min(len(r["curve"]) for rs in found.values() for r in rs)
    ]
    rows = [
        (name, *(f"{statistics.mean(record['curve'][n - 1] for record in records):.1f}" for n in shown))
        for name, records in found.items()
    ]
    return table(("best so far after", *map(str, shown)), rows)


#: what the package does without a search
SHIPPED = "one-shot stream"


def verdict() -> str:
    """Who wins, in words that follow from the figures."""
    found = by_strategy()
    searched = [name for name, records in found.items() if records[0].get("curve")]
    if not searched or SHIPPED not in found:
        return NOTHING
    first, best = next(iter(found)), searched[0]
    lines = [
        f"Highest agreement on the JPEG images: **{first}**, {_mean(found[first], 'jpeg_agreement'):.1f} % "
        f"({_seeds(found[first])}). The best search is **{best}**."
    ]
    lines += [_against(best, name, found) for name in (SHIPPED, "random") if name in found and name != best]
    gains = [r["score"] - r["curve"][0] for name in searched for r in found[name]]
    lines.append(
        f"On trial the searches found {min(gains):.1f} to {max(gains):.1f} points more than their first points "
        "had; how much of that is left after the whole recovery, the table shows."
    )
    return " ".join(lines)


def _against(one: str, other: str, found: Mapping[str, Sequence[Record]]) -> str:
    """Paired by seed."""
    theirs = {record["seed"]: record["jpeg_agreement"] for record in found[other]}
    gains = [round(r["jpeg_agreement"] - theirs[r["seed"]], 2) for r in found[one] if r["seed"] in theirs]
    shown = ", ".join(f"{gain:+.2f}" for gain in gains)
    return f"Against {other} its gain is {statistics.mean(gains):+.2f} points (by seed {shown})." if gains else ""


def _seeds(records: Sequence[Record]) -> str:
    return "one seed" if len(records) == 1 else f"{len(records)} seeds"


TABLES = {"search-strategies": strategies, "search-curves": curves, "search-verdict": verdict}
