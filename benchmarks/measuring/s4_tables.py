"""Tables of S4's pipeline and of short fine-tuning, from the committed results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table

NAMES = {"resnet34": "ResNet-34", "vgg16": "VGG-16"}
#: SOURCES.md, S4: dense on validation data, pruned and retrained, after k-means and 8 bits
SOURCE = {"resnet34": (78.563, 79.0, 78.01), "vgg16": (83.55, 83.55, 82.34)}
ALONE = ("network", "profile", "seed", "part")


def _done(file: str, key: Sequence[str]) -> list[Record]:
    records = Records(RESULTS / file, key).all()
    return [record for record in records if record["status"] == "done"]


def _parts() -> dict[tuple[str, str, int], dict[str, Record]]:
    found: dict[tuple[str, str, int], dict[str, Record]] = {}
    for record in _done("s4.jsonl", ALONE):
        found.setdefault((record["network"], record["profile"], record["seed"]), {})[record["part"]] = record
    return found


def pipeline() -> str:
    """C2: one row per network, profile and seed."""
    rows = []
    for (network, profile, seed), parts in sorted(_parts().items()):
        if "dense" not in parts:
            continue
        dense, control, after = (parts.get(key) for key in ("dense", "control", "pipeline"))
        assert dense is not None
        rows.append(
            (
                NAMES[network], profile, str(seed), f"{len(dense['epochs'])}", f"{SOURCE[network][0]:.2f}",
                f"{dense['val']:.2f} / {dense['test']:.2f}",
                f"{control['val']:.2f} / {control['test']:.2f}" if control else "",
                f"{_retrained(after):.2f}" if after else "",
                f"{SOURCE[network][2]:.2f}", _final(after), _fewer(after),
            )
        )  # fmt: skip
    head = (
        "network", "profile", "seed", "epochs", "S4 dense", "dense, val / test", "control, trained on",
        "pruned, retrained, val", "S4 final", "shipped, val / test", "distinct weights, times fewer",
    )  # fmt: skip
    return f"{table(head, rows)}\n\n{_made()}" if rows else NOTHING


def _retrained(record: Record) -> float:
    curves = [curve for curve in record["curves"] if curve["step"].endswith("finetune")]
    return float(curves[-1]["epochs"][-1]["val_metric"])


def _final(record: Record | None) -> str:
    if record is None:
        return ""
    row = next(row for row in record["table"] if row["metric"].startswith("Accuracy"))
    val = next(step for step in record["steps"] if step["name"].endswith("validate"))["summary"]
    shipped = val.rpartition("int8 file ")[2].split()[0].rstrip("%, ")
    return f"{shipped} / {row['after']:.2f}"


def _fewer(record: Record | None) -> str:
    if record is None or not record["weights"]:
        return ""
    whole = record["weights"][0]
    shipped = whole["dense_distinct"] / whole["final_distinct"]
    return f"{shipped:,.0f} (plain int8: {whole['dense_distinct'] / whole['control_distinct']:,.0f})"


def _made() -> str:
    records = _done("s4.jsonl", ALONE)
    cpus = sorted({record["cpu"] for record in records})
    commits = sorted({str(record["versions"]["commit"])[:7] for record in records})
    return f"One thread of {', '.join(cpus)}; neuroprune at {', '.join(commits)}."


def latency() -> str:
    """D2 and E1 on these networks: all files of a row in turns; coded bytes beside the dense fp32 file's."""
    rows = []
    for (network, profile, seed), parts in sorted(_parts().items()):
        files = parts.get("files", {}).get("times", {})
        for name in ("dense fp32", "dense int8", "pruned fp32", "pruned int8"):
            if name in files:
                one, dense = files[name], files["dense fp32"]["bytes"]
                rows.append(
                    (
                        f"{NAMES[network]}, {profile}, seed {seed}", name, f"{one['p50_ms']:.3g} ms",
                        f"{one['times_faster']:.2f}x", f"{one['bytes'] / 1e6:.3g} MB",
                        f"{one['npc_bytes'] / 1e3:,.0f} KB", f"{dense / one['npc_bytes']:.1f}x",
                        f"{one['accuracy']:.2f} %",
                    )
                )  # fmt: skip
    head = (
        "network",
        "file",
        "p50",
        "over dense fp32",
        "size",
        "model.npc",
        "smaller than dense fp32",
        "accuracy, test",
    )
    return table(head, rows) if rows else NOTHING


def finetuning() -> str:
    """C1: mean over the seeds of each cell; the control is the dense network with the same training."""
    cells: dict[tuple[str, float, str], list[Record]] = {}
    for record in _done("finetune.jsonl", ("network", "ratio", "recipe", "seed")):
        cells.setdefault((record["network"], record["ratio"], record["recipe"]), []).append(record)
    rows = [_tuned(*key, records) for key, records in sorted(cells.items())]
    head = (
        "network", "MACs", "recipe", "seeds", "epochs", "label-free, to dense", "fine-tuned, to dense",
        "lost / won", "agreement", "agreement, JPEG",
    )  # fmt: skip
    return table(head, rows) if rows else NOTHING


def _tuned(network: str, ratio: float, recipe: str, records: list[Record]) -> Sequence[str]:
    def mean(of: Callable[[Record], float]) -> str:
        return _mean([of(record) for record in records])

    after = [record["after"] for record in records]
    return (
        network, "dense" if ratio == 1 else f"{after[0]['macs_ratio']:.2f}x fewer", recipe, str(len(records)),
        str(records[0]["epochs"]),
        mean(lambda r: r["before"]["accuracy"] - r["before"]["dense_accuracy"]),
        mean(lambda r: r["after"]["accuracy"] - r["after"]["dense_accuracy"]),
        f"{sum(a['lost'] for a in after)} / {sum(a['won'] for a in after)}",
        mean(lambda r: r["after"]["agreement"]), mean(lambda r: r["after"]["jpeg_agreement"]),
    )  # fmt: skip


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} (sd {statistics.stdev(values):.2f})"


def whole_files() -> str:
    """E2: the coded file of the pruned, clustered int8 network beside the dense fp32 file."""
    rows = []
    for record in _done("whole_file.jsonl", ("network", "ratio", "k", "seed")):
        dense, final = record["rows"]["dense"], record["rows"]["clustered"]
        lost = (dense["right"] - final["right"]) * 100 / dense["examples"]
        rows.append(
            (
                record["network"], f"{record['ratio']:g}x", str(record["k"]), str(record["seed"]),
                f"{dense['fp32_bytes'] / 1e3:,.0f} KB",
                f"{dense['npc_bytes'] / 1e3:,.1f} KB ({dense['fp32_bytes'] / dense['npc_bytes']:.1f}x)",
                f"{final['npc_bytes'] / 1e3:,.1f} KB", f"{record['times_smaller']:.1f}x", f"{-lost:+.2f}",
            )
        )  # fmt: skip
    head = (
        "network", "fewer MACs", "values per tensor", "seed", "dense fp32 file", "dense int8, coded",
        "pruned, clustered, coded", "smaller", "points to dense int8",
    )  # fmt: skip
    return table(head, rows) if rows else NOTHING


TABLES = {"whole-files": whole_files, "s4-pipeline": pipeline, "s4-latency": latency, "finetuning": finetuning}
