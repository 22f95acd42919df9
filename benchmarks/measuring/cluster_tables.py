"""The table of k-means over all weights of a network, from the committed results."""

from __future__ import annotations

from collections.abc import Sequence

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table

NAMES = {"vgg16": "VGG-16's shape", "resnet56": "ResNet-56, trained"}
METHODS = {
    "ours": "`kmeans_1d` and `nearest`",
    "KMeans": "scikit-learn `KMeans(n_init=1)`",
    "MiniBatchKMeans": "scikit-learn `MiniBatchKMeans(n_init=1)`",
    "kmeans1d": "`kmeans1d.cluster`",
}


def clustering() -> str:
    records = Records(RESULTS / "cluster.jsonl", ("weights", "k", "method"))
    found = records.by_key()
    cells = [(w, k) for w in NAMES for k in (16, 256) if (w, k, "ours") in found]
    if not cells:
        return NOTHING
    rows = [
        _row(found[(*cell, method)], found[(*cell, "ours")])
        for cell in cells
        for method in METHODS
        if (*cell, method) in found
    ]
    head = ("numbers", "k", "method", "CPU time", "over ours", "memory", "sum of squares, over ours")
    said = [
        _said(w, k, found[(w, k, "ours")], found[(w, k, "KMeans")]) for w, k in cells if (w, k, "KMeans") in found
    ]
    return "\n\n".join([table(head, rows), "\n".join(said), _made(list(found.values()))])


def _row(record: Record, ours: Record) -> Sequence[str]:
    done = record["status"] == "done"
    times = f"{record['cpu_s'] / ours['cpu_s']:.3g}"
    return (
        f"{NAMES[record['weights']]}, {record['values'] / 1e6:.3g} M",
        str(record["k"]),
        METHODS[record["method"]],
        f"{record['cpu_s']:.3g} s" if done else f"{_stopped(record)} {record['cpu_s']:.3g} s",
        f"{times}x" if done else f"over {times}x",
        f"{record['more_mb']:,.0f} MB" if done else f"over {record['more_mb']:,.0f} MB",
        f"{record['inertia'] / ours['inertia']:.5g}" if done else "",
    )


def _stopped(record: Record) -> str:
    if record["status"] == "timeout":
        return "stopped after"
    limit = f"over {record['limit_mb'] / 1e3:.0f} GB after"
    return limit if "more memory than allowed" in record["problem"] else "out of memory after"


def _said(weights: str, k: int, ours: Record, theirs: Record) -> str:
    done = theirs["status"] == "done"
    times = f"{'' if done else 'more than '}{theirs['cpu_s'] / ours['cpu_s']:.0f} times"
    text = f"- {NAMES[weights]}, k = {k}: scikit-learn's KMeans takes {times} the CPU time of ours"
    if not done:
        return f"{text}; it was stopped before it had a result, so the sums of squares cannot be compared."
    worse = 100 * (theirs["inertia"] / ours["inertia"] - 1)
    return f"{text}, and its sum of squares is {abs(worse):.2g} % {'higher' if worse >= 0 else 'lower'}."


def _made(found: Sequence[Record]) -> str:
    cpus, dates = (", ".join(sorted({record[key] for record in found})) for key in ("cpu", "date"))
    packages = {p: v for record in found for p, v in record["versions"].items() if v}
    released = ", ".join(f"{p} {packages[p]}" for p in ("numpy", "scikit-learn", "kmeans1d") if p in packages)
    commits = ", ".join(sorted({str(record["versions"]["commit"]) for record in found}))
    return (
        f"One thread ({cpus}), other work running: CPU time, not wall time. Memory beyond the numbers themselves. "
        f"{released}; neuroprune at {commits}; {dates}."
    )


TABLES = {"clustering": clustering}
