"""Tables of docs/cascade.md out of the records; nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from measuring.latency_tables import made_with, ms
from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table

FILE, KEY = RESULTS / "cascade.jsonl", ("model", "precision", "half")
#: of the dense network's mean latency, at its accuracy (cell H1)
ASKED = 0.5


def records() -> list[Record]:
    return [record for record in Records(FILE, KEY).all() if record["status"] == "done"]


def groups() -> list[list[Record]]:
    """Both halves of a network in one precision."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records():
        found.setdefault((record["model"], record["precision"]), []).append(record)
    return list(found.values())


def points() -> str:
    """Per network and precision: the dense network, every level, and the operating points, over both halves."""
    if not groups():
        return NOTHING
    head = ("network", "precision", "answered by", "answers of each level", "accuracy", "lost / won", "agreement",
            "mean", "p90", "mean / dense", "p90 / dense")  # fmt: skip
    rows = [row for group in groups() for row in _rows(group)]
    return table(head, rows) + "\n\n" + made_with(records())


def _rows(group: Sequence[Record]) -> list[Sequence[Any]]:
    first = group[0]
    dense = [record["test"]["dense"] for record in group]
    shown = [n for n in first["test"]["points"] if n.startswith(("level-", "lose-"))]
    rows: list[Sequence[Any]] = [
        (first["model"], "fp32", "dense network", "", f"{_over(group, dense, 'accuracy'):.2f}", "", "",
         ms(_mean(dense, "mean_ms")), ms(_mean(dense, "p90_ms")), "1", "1")
    ]  # fmt: skip
    for name in sorted(shown, reverse=True):
        if all(name in record["test"]["points"] for record in group):
            rows.append(_row(group, name, dense))
    return rows


def _row(group: Sequence[Record], name: str, dense: Sequence[Record]) -> Sequence[Any]:
    own = [record["test"]["points"][name] for record in group]
    shares = ["/".join(f"{100 * share:.0f}" for share in one["shares"]) for one in own]
    lost, won = (sum(one[key] for one in own) for key in ("lost", "won"))
    return (
        "", group[0]["precision"], name, ", ".join(dict.fromkeys(shares)) + " %",
        f"{_over(group, own, 'accuracy'):.2f}", f"{lost} / {won}", f"{_over(group, own, 'agreement'):.2f}",
        ms(_mean(own, "mean_ms")), ms(_mean(own, "p90_ms")),
        *(f"{_mean(own, key) / _mean(dense, key):.2f}" for key in ("mean_ms", "p90_ms")),
    )  # fmt: skip


def _mean(rows: Sequence[Record], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def _over(group: Sequence[Record], rows: Sequence[Record], key: str) -> float:
    """Percent of all examples of both halves."""
    counts = [record["test"]["examples"] for record in group]
    return float(sum(n * row[key] for n, row in zip(counts, rows, strict=True)) / sum(counts))


def curve() -> str:
    """Accuracy against mean and p90 latency: the frontier that validation found, as measured on the other half."""
    if not records():
        return NOTHING
    head = ("network", "precision", "half", "levels asked", "threshold", "accuracy on validation", "accuracy",
            "mean / dense", "p90 / dense")  # fmt: skip
    rows = []
    for record in records():
        dense = record["test"]["dense"]
        for wanted, own in zip(record["curve"], record["test"]["curve"], strict=True):
            rows.append((
                record["model"], record["precision"], record["half"], ", ".join(map(str, own["path"])),
                f"{own['threshold']:.3f}" if len(own["path"]) > 1 else "", f"{wanted['accuracy']:.2f}",
                f"{own['accuracy']:.2f}", f"{own['mean_ms'] / dense['mean_ms']:.2f}",
                f"{own['p90_ms'] / dense['p90_ms']:.2f}",
            ))  # fmt: skip
    return table(head, rows) + "\n\n" + made_with(records())


def verdict() -> str:
    """The two goals, network by network."""
    if not groups():
        return NOTHING
    head = ("network", "precision", "images reported on", "accuracy of dense", "of the cascade", "mean / dense",
            f"at most {ASKED}", "best single network / dense", "faster than it")  # fmt: skip
    return table(head, [_judged(group) for group in groups()])


def _judged(group: Sequence[Record]) -> Sequence[Any]:
    dense = [record["test"]["dense"] for record in group]
    own = [record["test"]["points"][record["default"]] for record in group]
    ratio = _mean(own, "mean_ms") / _mean(dense, "mean_ms")
    single = _mean([_best_single(record) for record in group], "mean_ms") / _mean(dense, "mean_ms")
    kept = _over(group, own, "accuracy") >= _over(group, dense, "accuracy")
    return (
        group[0]["model"], group[0]["precision"], sum(record["test"]["examples"] for record in group),
        f"{_over(group, dense, 'accuracy'):.2f}",
        f"{_over(group, own, 'accuracy'):.2f}", f"{ratio:.2f}", _met(ratio <= ASKED, kept), f"{single:.2f}",
        _met(ratio < single, kept),
    )  # fmt: skip


def _met(reached: bool, kept: bool) -> str:
    if not reached:
        return "no"
    return "yes" if kept else "in time, but not at its accuracy on these images"


def _best_single(record: Record) -> Record:
    """Chosen as the cascade is: the cheapest level alone that loses nothing on validation, or the dense one."""
    enough = [
        name
        for name, point in record["operating_points"].items()
        if len(point["path"]) == 1 and point["accuracy"] >= record["dense"]["accuracy"] - 1e-9
    ]
    rows: list[Record] = [record["test"]["points"][name] for name in enough] + [record["test"]["dense"]]
    return min(rows, key=lambda row: row["mean_ms"])


TABLES = {"cascade-points": points, "cascade-curve": curve, "cascade-verdict": verdict}
