"""Tables of docs/lottery.md out of the records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table
from neuroprune.report.wording import percent

#: digits-slow: smaller rounds and longer training
DATA = ("digits", "digits-slow", "mnist")
SEEDS = (0, 1, 2)
#: the rounds whose sparsities are shown, and at which tickets have controls
ROUNDS = {"digits": (2, 4, 6, 8, 10), "digits-slow": (3, 5, 7, 9, 11), "mnist": (1, 2, 3, 4, 5)}
KEY = ("data", "rewind", "seed", "kind", "round")
FILE = RESULTS / "lottery.jsonl"
#: column -> the kind of network, and the rewinding of the search it is from
COLUMNS = {
    "to the beginning": ("ticket", "init"),
    "to epoch 1": ("ticket", "epoch"),
    "of the rate": ("ticket", "lr"),
    "dense, as often": ("dense", "lr"),
    "other initial weights": ("reinit", "init"),
    "random mask": ("random_mask", "init"),
}
REWINDS = {"init": "to the beginning", "epoch": "to epoch 1", "lr": "of the rate"}
#: words -> the kind of network, and whether it is the one of the ticket's round
_RIVALS = {
    "dense": ("dense", False),
    "dense, trained as often": ("dense", True),
    "other initial weights": ("reinit", True),
    "random mask": ("random_mask", True),
}
#: what the issue asks for
SPARSE = 0.9


def by_sparsity(name: str, records: Sequence[Record]) -> str:
    """Accuracy on the test images of every network at the sparsities shown: mean and deviation over the seeds."""
    mine = [r for r in records if r["data"] == name]
    if not mine:
        return NOTHING
    dense = _spread(r["test"] for r in mine if (r["kind"], r["rewind"], r["round"]) == ("dense", "init", 0))
    columns = {words: [r for r in mine if (r["kind"], r["rewind"]) == column] for words, column in COLUMNS.items()}
    columns = {words: found for words, found in columns.items() if any(r["round"] for r in found)}
    rows = []
    for number in ROUNDS[name]:
        level = next((r["sparsity"] for r in mine if (r["kind"], r["round"]) == ("ticket", number)), None)
        cells = [_spread(r["test"] for r in found if r["round"] == number) for found in columns.values()]
        rows.append([percent(level), *cells])
    lines = f"Dense: {dense} % of the test images. Weights off, and accuracy in %:"
    return f"{lines}\n\n{table(['off', *columns], rows)}"


def chosen(records: Sequence[Record]) -> str:
    """The tickets that validation chose, beside the dense network of the same seed."""
    rows = []
    for name in DATA:
        for rewind, words in REWINDS.items():
            found = [r for r in records if (r["data"], r["rewind"]) == (name, rewind) and r["chosen"]]
            if found:
                gaps = [r["test"] - _of(records, r, "dense", 0)["test"] for r in found]
                off = ", ".join(percent(r["sparsity"]) for r in found)
                reached = f"{sum(r['reached'] for r in found)} of {len(found)}"
                rows.append([name, words, off, reached, _spread(r["test"] for r in found), _points(gaps)])
    head = ["data", "rewinding", "weights off, by seed", "as good on validation", "test accuracy, %",
            "points over dense"]  # fmt: skip
    return table(head, rows) if rows else NOTHING


def differences(records: Sequence[Record]) -> str:
    """At the first sparsity of 90 % or more: paired differences on the test images, each seed for itself."""
    rows = []
    for name in DATA:
        for rewind, words in REWINDS.items():
            tickets = [r for r in records if (r["data"], r["rewind"], r["kind"]) == (name, rewind, "ticket")]
            number = next((n for n in ROUNDS[name] for r in tickets
                           if r["round"] == n and r["sparsity"] >= SPARSE), None)  # fmt: skip
            level = [r for r in tickets if r["round"] == number]
            if level:
                off = percent(level[0]["sparsity"])
                rows.append([name, words, off, _reaches(records, level), *_gaps(records, level)])
    head = ["data", "rewinding", "weights off", "reaches dense", *(f"ticket over {words}" for words in _RIVALS)]
    return table(head, rows) if rows else NOTHING


def _reaches(records: Sequence[Record], level: Sequence[Record]) -> str:
    """Whether the mean gap is less than the dense network's own deviation over the seeds."""
    dense = [_of(records, r, "dense", 0)["test"] for r in level]
    if len(dense) < 2:
        return ""
    gap = statistics.mean(r["test"] - other for r, other in zip(level, dense, strict=True))
    return "yes" if gap >= -statistics.stdev(dense) else "no"


def _gaps(records: Sequence[Record], level: Sequence[Record]) -> list[str]:
    cells = []
    for kind, same_round in _RIVALS.values():
        others = [(r, _of(records, r, kind, r["round"] if same_round else 0)) for r in level]
        cells.append(_points([r["test"] - other["test"] for r, other in others if other]))
    return cells


def _of(records: Sequence[Record], like: Record, kind: str, number: int) -> Record:
    """The record of another network of the same search; {} where there is none."""
    key = {"data": like["data"], "rewind": like["rewind"], "seed": like["seed"], "kind": kind, "round": number}
    return next((r for r in records if all(r[name] == value for name, value in key.items())), {})


def _spread(values: Iterable[float]) -> str:
    """Mean and sample standard deviation; how many, where it is not all seeds."""
    found = list(values)
    if not found:
        return ""
    deviation = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{deviation}{_few(found)}"


def _points(gaps: Sequence[float]) -> str:
    if not gaps:
        return ""
    each = ", ".join(f"{gap:+.2f}" for gap in gaps)
    return f"{statistics.mean(gaps):+.2f} ({each})"


def _few(found: Sequence[Any]) -> str:
    return f" ({len(found)} of {len(SEEDS)} seeds)" if len(found) < len(SEEDS) else ""


def _made_with(records: Sequence[Record]) -> str:
    if not records:
        return NOTHING
    commits = sorted({r["versions"]["commit"] for r in records})
    return (
        f"{len(records)} trainings, {sum(r['cpu_s'] for r in records) / 60:.0f} minutes of CPU time in all, one "
        f"thread; neuroprune at {', '.join(commits)}, torch {records[0]['versions']['torch']}."
    )


def _all() -> list[Record]:
    return sorted(Records(FILE, KEY).all(), key=lambda r: r["seed"])


TABLES = {
    "lottery-digits": lambda: by_sparsity("digits", _all()),
    "lottery-digits-slow": lambda: by_sparsity("digits-slow", _all()),
    "lottery-mnist": lambda: by_sparsity("mnist", _all()),
    "lottery-chosen": lambda: chosen(_all()),
    "lottery-differences": lambda: differences(_all()),
    "lottery-made-with": lambda: _made_with(_all()),
}
