"""Tables of docs/coverage.md out of the records; only counting, nothing is measured here."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoos import zoo

from measuring.race import finished
from measuring.records import RESULTS, Record, Records
from neuroprune.base.files import read_json
from neuroprune.report.wording import count, percent, seconds, size

NOTHING = "Not measured yet."
STATUSES = ("exact", "statistics", "refused", "wrong", "error", "timeout")
#: how far from the asked ratio a cut may be and still count as a cut at that ratio
WITHIN = 0.05


def read(zoo_name: str, mode: str = "") -> list[Record]:
    return Records(RESULTS / "coverage" / f"{zoo_name}{'.' + mode if mode else ''}.jsonl").all()


def pruned(record: Mapping[str, Any]) -> bool:
    """Cut, proven, and about as much as was asked for."""
    done = record["status"] in ("exact", "statistics")
    return done and abs(record["achieved"] - record["ratio"]) <= WITHIN


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def by_set(zoo_name: str, records: Iterable[Record]) -> dict[tuple[str, float], tuple[int | None, list[Record]]]:
    """(set, ratio) -> (how many models the set has, its records)."""
    sets_of = zoo(zoo_name).sets_of
    found: dict[tuple[str, float], tuple[int | None, list[Record]]] = {}
    for record in records:
        for name, total in sets_of(record["model"]):
            found.setdefault((name, record["ratio"]), (total, []))[1].append(record)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], -item[0][1])))


def coverage(zoo_name: str) -> str:
    """One row per set and ratio: what became of the models, and of the same ones under the peer."""
    records = read(zoo_name)
    if not records:
        return NOTHING
    peer = {(r["model"], r["ratio"]): r for r in read(zoo_name, "peer")}
    head = ["models", "ratio", "measured", *STATUSES, "cut as asked", "trains", "parameters removed",
            "Torch-Pruning runs", "equal / not / open", "ours removes as much"]  # fmt: skip
    rows = [
        [name, percent(ratio, 0), f"{len(group)} of {total}" if total else len(group), *_fates(group),
         *_peer_cells(group, peer)]
        for (name, ratio), (total, group) in by_set(zoo_name, records).items()
    ]  # fmt: skip
    return table(head, rows) + "\n\n" + made_with(records)


def _fates(group: Sequence[Record]) -> list[Any]:
    statuses = Counter(record["status"] for record in group)
    trained = [record["trains"] for record in group if record.get("trains") is not None]
    removed = [record["removed"] for record in group if "removed" in record]
    return [
        *(statuses[status] for status in STATUSES),
        sum(map(pruned, group)),
        f"{sum(trained)} of {len(trained)}",
        percent(statistics.median(removed) if removed else None),
    ]


def _peer_cells(group: Sequence[Record], peer: Mapping[tuple[str, float], Record]) -> list[Any]:
    """Where the peer runs: how many, what its output is worth, and who removes more parameters."""
    both = [(r, peer[r["model"], r["ratio"]]) for r in group if (r["model"], r["ratio"]) in peer]
    if not both:
        return ["", "", ""]
    running = [(ours, theirs) for ours, theirs in both if theirs["status"] == "runs"]
    verdicts = Counter(theirs.get("exact", "undecided") for _, theirs in running)
    as_much = sum(ours.get("removed", 0) >= theirs["removed"] for ours, theirs in running)
    return [
        f"{len(running)} of {len(both)}",
        f"{verdicts['yes']} / {verdicts['no']} / {verdicts['undecided']}",
        f"{as_much} of {len(running)}",
    ]


def models(zoo_name: str) -> str:
    """Every model, folded; and why what was not cut was not."""
    records = read(zoo_name)
    if not records:
        return NOTHING
    peer = {(r["model"], r["ratio"]): r for r in read(zoo_name, "peer")}
    head = ["model", "ratio", "parameters", "status", "channels removed", "parameters removed", "can be removed",
            "trains", "trace", "total", "peak memory", "Torch-Pruning", "parameters removed"]  # fmt: skip
    ordered = sorted(records, key=lambda r: (r["model"], -r["ratio"]))
    full = table(head, (_model_row(r, peer.get((r["model"], r["ratio"]), {})) for r in ordered))
    open_ends = [(r["model"], percent(r["ratio"], 0), r["status"], r.get("problem", "")) for r in ordered
                 if r["status"] not in ("exact", "statistics")]  # fmt: skip
    parts = [folded(f"All {len(records)} measurements", full)]
    if open_ends:
        parts.append(folded(f"The {len(open_ends)} that were not cut", table(_PROBLEM, open_ends)))
    return "\n\n".join(parts)


_PROBLEM = ("model", "ratio", "status", "why")


def _model_row(record: Record, peer: Record) -> list[Any]:
    trains = {True: "yes", False: "no"}.get(record.get("trains"), "")
    share = [percent(record.get(key)) for key in ("achieved", "removed", "removable")]
    theirs = peer.get("status", "")
    verdict = {"yes": "runs, equal", "no": "runs, not equal"}.get(peer.get("exact", ""), theirs)
    return [
        record["model"],
        percent(record["ratio"], 0),
        count(record.get("params")),
        record["status"],
        *share,
        trains,
        seconds(record.get("trace_cpu_s")),
        seconds(record["seconds"]),
        size(record["peak_mb"] * 1e6) if "peak_mb" in record else "",
        verdict if theirs == "runs" else theirs,
        percent(peer["removed"]) if theirs == "runs" else "",
    ]


def race() -> str:
    """CPU seconds to a plan against the peer's, over every model where both come to an end."""
    found = [(name, record) for name in ("timm", "torchvision", "transformers") for record in read(name, "race")]
    if not found:
        return NOTHING
    head = (
        "zoo",
        "models",
        "both end",
        "only ours",
        "only theirs",
        "quotient, median",
        "largest",
        "over 1",
        "over 2",
    )
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        group = [record for other, record in found if other == name]
        quotients = sorted(r["quotient"] for r in group if r.get("quotient") is not None)
        statuses = Counter(finished(record) for record in group)
        rows.append([
            name, len(group), statuses["both"], statuses["ours"], statuses["theirs"],
            f"{statistics.median(quotients):.2f}" if quotients else "",
            f"{quotients[-1]:.2f}" if quotients else "",
            sum(q > 1 for q in quotients), sum(q > 2 for q in quotients),
        ])  # fmt: skip
    slow = sorted((r for _, r in found if r.get("quotient")), key=lambda r: -r["quotient"])
    each = table(
        ("model", "ours", "Torch-Pruning", "quotient"),
        ((r["model"], seconds(r["ours"]), seconds(r["theirs"]), f"{r['quotient']:.2f}") for r in slow),
    )
    return table(head, rows) + "\n\n" + folded("Every model, slowest quotient first", each)


def traces(zoo_name: str = "timm") -> str:
    """All models of a zoo on fake tensors: how many are traced, how long it takes, and what fails."""
    records = read(zoo_name, "trace")
    if not records:
        return NOTHING
    statuses = Counter(record["status"] for record in records)
    good = [record for record in records if record["status"] == "traced"]
    head = ("models", "traced", "refused", "error", "timeout", "nothing to remove", "can be removed, median",
            "trace, median", "trace, longest", "largest memory")  # fmt: skip
    times = [record["trace_cpu_s"] for record in good]
    row = [
        len(records), *(statuses[s] for s in ("traced", "refused", "error", "timeout")),
        sum(not record["groups"] for record in good),
        percent(statistics.median(r["removable"] for r in good)) if good else "",
        seconds(statistics.median(times)) if good else "", seconds(max(times)) if good else "",
        size(max(r["peak_mb"] for r in records if "peak_mb" in r) * 1e6),
    ]  # fmt: skip
    bad = [(r["model"], "", r["status"], r.get("problem", "")) for r in records if r["status"] != "traced"]
    out = table(head, [row]) + "\n\n" + made_with(records)
    return out + ("\n\n" + folded(f"The {len(bad)} that are not traced", table(_PROBLEM, bad)) if bad else "")


def scale() -> str:
    """Seconds and memory from ten million to seven billion parameters."""
    path = RESULTS / "scale.json"
    if not path.exists():
        return NOTHING
    document = read_json(path)
    head = ("decoder", "parameters", "units", "trace", "plan", "trace and plan", "peak memory", "status")
    runs = sorted(document["runs"].items(), key=lambda item: item[1].get("params", 0))
    rows = [
        (name, count(run.get("params")), count(run.get("units")), seconds(run.get("trace_s")),
         seconds(run.get("plan_s")), seconds(run.get("total_s")),
         size(run["engine_peak_mb"] * 1e6) if "engine_peak_mb" in run else "", run["status"])
        for name, run in runs
    ]  # fmt: skip
    target = document["target"]
    said = (
        f"Target at {target['size']}: at most {seconds(target['seconds'])} and {size(target['peak_mb'] * 1e6)}. "
        f"One thread, wall time, {document['tokens']} tokens, weights on the meta device."
    )
    return table(head, rows) + "\n\n" + said + " " + made_with([run for _, run in runs])


def fuzz() -> str:
    """What became of the random networks."""
    path = RESULTS / "fuzz.json"
    if not path.exists():
        return NOTHING
    document = read_json(path)
    counts = document["counts"]
    order = ("exact", "statistics", "whole", "refused", "wrong", "exception", "crashed", "invalid")
    row = [count(document["networks"]), *(count(counts.get(name, 0)) for name in order)]
    share = percent(document["refused_share"], 2)
    return (
        table(("networks", *order), [row])
        + f"\n\nA group stopped by the oracle alone in {share} of the networks. {made_with([document])}"
    )


def claim() -> str:
    """The one line that README.md quotes."""
    records = [r for r in read("timm") if r["ratio"] == 0.5]
    chosen = by_set("timm", records).get(("smallest of each timm module", 0.5))
    if chosen is None:
        return NOTHING
    total, group = chosen
    theirs = [r for r in read("timm", "peer") if r["ratio"] == 0.5 and r["model"] in {g["model"] for g in group}]
    wrong = sum(record["status"] == "wrong" for record in group)
    return (
        f"Half the channels of {sum(map(pruned, group))} of {total} timm architecture families removed without a"
        f" hint and proven, {wrong} wrong; Torch-Pruning's result runs for"
        f" {sum(r['status'] == 'runs' for r in theirs)} of {len(theirs)} of the same models."
    )


def made_with(records: Sequence[Mapping[str, Any]]) -> str:
    """Which releases, and how many states of the source, the records were measured with."""
    found = [record["versions"] for record in records]
    packages = sorted({name for facts in found for name in facts} - {"commit"})
    releases = [f"{name} {'/'.join(sorted({str(f[name]) for f in found if f.get(name)}))}" for name in packages]
    commits = sorted({str(facts.get("commit")) for facts in found})
    return f"Measured with {', '.join(releases)}; neuroprune at {', '.join(commits)}."


TABLES = {
    **{f"coverage-{name}": lambda name=name: coverage(name) for name in ("timm", "torchvision", "transformers")},
    **{f"models-{name}": lambda name=name: models(name) for name in ("timm", "torchvision", "transformers")},
    "coverage-race": race,
    "coverage-traces": traces,
    "coverage-scale": scale,
    "coverage-fuzz": fuzz,
    "coverage-claim": claim,
}
