"""Tables of docs/latency.md out of the records; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table
from neuroprune.report.wording import percent

KEY = ("cell", "network", "share", "precision", "recover")
PRECISIONS = ("fp32", "int8")


def records(cell: str) -> list[Record]:
    found = Records(RESULTS / "latency.jsonl", KEY).all()
    return [record for record in found if record["cell"] == cell and record["status"] == "done"]


def shapes() -> str:
    """Per network, share and precision: ms, speed-up, share of the ideal one, and what the layers' table says."""
    found = records("shapes")
    if not found:
        return NOTHING
    head = ("network", "filters removed", "fewer MACs", "precision", "p50", "p90", "times faster",
            "of the ideal", "table's sum over measured")  # fmt: skip
    rows = [row for record in found for row in _shape_rows(record)]
    return table(head, rows) + "\n\n" + made_with(found)


def _shape_rows(record: Record) -> Iterable[list[Any]]:
    order = sorted(record["rows"], key=lambda label: record["rows"][label]["removed"])
    for label in order:
        row = record["rows"][label]
        for precision in PRECISIONS:
            own = row[precision]
            yield [
                record["network"], percent(row["removed"]), f"{row['ideal']:.1f}x", precision,
                ms(own["p50_ms"]), ms(own["p90_ms"]), f"{own['times_faster']:.1f}x",
                percent(own["of_ideal"], 0) if precision == "fp32" else "",
                f"{own['table_ms'] / own['p50_ms']:.2f}",
            ]  # fmt: skip


def trained() -> str:
    """Per network and budget: speed-up and what it costs, as measured on the files."""
    found = records("trained")
    if not found:
        return NOTHING
    head = ("network", "budget", "recovery", "blocks gone", "fewer MACs", "file", "p50", "times faster",
            "over int8 alone", "accuracy", "lost", "agreement", "CPU s")  # fmt: skip
    rows = [row for record in found for row in _trained_rows(record)]
    return table(head, rows) + "\n\n" + made_with(found)


def _trained_rows(record: Record) -> Iterable[list[Any]]:
    rows = record["rows"]
    dense, whole = rows["dense fp32"], rows["dense int8"]
    names = ["dense fp32", "dense int8", "pruned fp32", "pruned int8"]
    for name in names:
        own, first = rows[name], name == names[0]
        pruned = name.startswith("pruned")
        yield [
            record["network"] if first else "",
            f"{record['share']:g} in {record['precision']}" if first else "",
            record["recover"] if pruned else "",
            record["blocks_gone"] if pruned else "",
            f"{record['macs_ratio']:.2f}x" if pruned else "",
            name, ms(own["p50_ms"]), f"{own['times_faster']:.2f}x",
            f"{whole['p50_ms'] / own['p50_ms']:.2f}x" if name == "pruned int8" else "",
            f"{own['accuracy']:.2f}", f"{dense['accuracy'] - own['accuracy']:.2f}", f"{own['agreement']:.2f}",
            f"{record['cpu_s']:.0f}" if name == "pruned fp32" else "",
        ]  # fmt: skip


def ms(value: float) -> str:
    return f"{value:.3g} ms"


def made_with(found: Iterable[Record]) -> str:
    """On what, and at which states of the source."""
    cpus = ", ".join(sorted({record["cpu"] for record in found}))
    runtimes = ", ".join(sorted({str(record["versions"]["onnxruntime"]) for record in found}))
    commits = ", ".join(sorted({str(record["versions"]["commit"]) for record in found}))
    return f"Measured on one core ({cpus}), ONNX Runtime {runtimes}; neuroprune at {commits}."


TABLES = {"latency-shapes": shapes, "latency-trained": trained}
