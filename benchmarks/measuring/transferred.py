"""Tables of transfer learning and of the recipe on 1-D signals, from the committed results."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table
from neuroprune.base.files import read_json
from neuroprune.report.wording import quantity

PRUNED, DENSE, SCRATCH = "pruned, transferred", "dense, transferred", "pruned shape, from scratch"
#: method -> seed -> test accuracy in percent
Accuracies = Mapping[str, Mapping[int, float]]


def transfer() -> str:
    found = Records(RESULTS / "transfer.jsonl").all()
    if not found:
        return NOTHING
    shares = sorted({record["share"] for record in found})
    rows, said = [], []
    for share in shares:
        here = [record for record in found if record["share"] == share]
        rates, accuracies = chosen(here)
        cells = [f"{spread(accuracies[m].values())} (rate {rates[m]:g})" for m in (PRUNED, DENSE, SCRATCH)]
        rows.append([f"{share:.0%}", here[0]["images"], *cells])
        said.append(f"- With {share:.0%} of the images the pruned network with a new head "
                    f"{verdict(accuracies, DENSE)}, and {verdict(accuracies, SCRATCH)}.")  # fmt: skip
    head = ("training images", "number", PRUNED, DENSE, SCRATCH)
    return "\n\n".join([table(head, rows), "\n".join(said), _made(found)])


def chosen(records: Sequence[Record]) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Of each method the rate that is best on validation, mean over the seeds, and the test accuracies at it."""
    val: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        val[record["method"]][record["lr"]].append(record["val"])
    rates = {m: max(own, key=lambda rate, own=own: statistics.fmean(own[rate])) for m, own in val.items()}
    accuracies: dict[str, dict[int, float]] = {method: {} for method in rates}
    for record in records:
        if record["lr"] == rates[record["method"]]:
            accuracies[record["method"]][record["seed"]] = record["test"]
    return rates, accuracies


def verdict(accuracies: Accuracies, other: str) -> str:
    """In words: the mean of the differences seed by seed; no winner where the seeds disagree."""
    mine, theirs = accuracies[PRUNED], accuracies[other]
    gaps = [mine[seed] - theirs[seed] for seed in sorted(mine)]
    gap, name = statistics.fmean(gaps), {DENSE: "the dense one", SCRATCH: "the same shape from scratch"}[other]
    if all(g > 0 for g in gaps):
        return f"beats {name} in every seed, by {gap:.2f} points on average"
    if all(g < 0 for g in gaps):
        return f"loses to {name} in every seed, by {-gap:.2f} points on average"
    return f"neither beats {name} nor loses to it ({gap:+.2f} points on average, and the seeds disagree)"


def spread(values: Iterable[float]) -> str:
    found = list(values)
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{statistics.fmean(found):.2f} ± {deviation:.2f} %"


def _made(found: Sequence[Record]) -> str:
    first = {record["seed"]: record for record in found}
    mnist = {name: spread(r["mnist"][name] for r in first.values()) for name in ("dense", "pruned")}
    macs = statistics.fmean(r["macs"][0] / r["macs"][1] for r in first.values())
    cpus = ", ".join(sorted({record["cpu"] for record in found}))
    commits = ", ".join(sorted({str(record["versions"]["commit"]) for record in found}))
    return (
        f"Test accuracy, mean and standard deviation over {len(first)} seeds, {found[0]['epochs']} epochs each; "
        f"one of the 359 test images is 0.28 points. On MNIST the dense network had {mnist['dense']} and the pruned "
        f"one, with {macs:.1f}x fewer MACs, {mnist['pruned']}. {sum(r['cpu_s'] for r in found):.0f} s of CPU time "
        f"on the digits, one thread ({cpus}); neuroprune at {commits}."
    )


def spoken_digits() -> str:
    path = RESULTS / "spoken_digits.json"
    if not path.exists():
        return NOTHING
    results = read_json(path)
    rows = []
    for run in results["runs"]:
        by = {row["metric"]: row for row in run["table"]}
        accuracy = by["Accuracy (test)"]
        file = next(v["name"] for v in run["variants"] if v["chosen"])
        rows.append([
            run["seed"], f"{accuracy['before']:.2f} %", f"{accuracy['after']:.2f} %",
            *(by[name]["change"] for name in ("Parameters", "MACs")),
            f"{quantity(by['File size']['before'], 'B')} -> {quantity(by['File size']['after'], 'B')}, {file}",
            by["Latency p50 (CPU)"]["change"], f"{run['cpu_s']:.0f}",
        ])  # fmt: skip
    head = ("seed", "dense", "compressed", "parameters", "MACs", "file", "latency p50", "CPU s")
    note = (f"Accuracies are of the official test split, 300 recordings. One thread "
            f"({results['machine']['cpu']}); neuroprune at {results['versions']['commit']}.")  # fmt: skip
    return f"{table(head, rows)}\n\n{note}"


TABLES = {"transfer": transfer, "spoken-digits": spoken_digits}
