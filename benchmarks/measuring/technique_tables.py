"""The tables of docs/techniques.md out of the records; only averaging, nothing is measured here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from measuring.records import RESULTS, Record, Records

FILE = RESULTS / "techniques.jsonl"
KEY = ("network", "method", "ratio", "seed")
#: method -> technique and its options; ``random ...`` are the controls
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "weight": ("weight", {}), "magnitude": ("magnitude", {}), "group": ("group", {}),
    "quantization-aware": ("quantization-aware", {}), "dynamic": ("dynamic", {}), "neuroprune": ("neuroprune", {}),
    "before-training": ("before-training", {}), "movement": ("movement", {}),
    "filter": ("filter", {}), "neuron": ("neuron", {}),
    "structured": ("structured", {}), "l1": ("l1", {}), "layer": ("layer", {}), "two-level": ("two-level", {}),
    "random weights": ("weight", {"criterion": "random"}), "random groups": ("group", {"criterion": "random"}),
    "random filters": ("filter", {"criterion": "random"}), "random neurons": ("neuron", {"criterion": "random"}),
    "random units": ("structured", {"criterion": "random", "scope": "local"}),
    "random layers": ("layer", {"criterion": "random"}),
    "random two-level": ("two-level", {"units": "random", "criterion": "random", "scope": "local"}),
}  # fmt: skip
#: what each technique is to beat at equal density
CONTROL = {
    "weight": "random weights", "magnitude": "random weights", "group": "random groups",
    "quantization-aware": "random weights", "dynamic": "random weights", "neuroprune": "random weights",
    "before-training": "random weights", "movement": "random weights",
    "filter": "random filters", "neuron": "random neurons",
    "structured": "random units", "l1": "random units", "layer": "random layers", "two-level": "random two-level",
}  # fmt: skip
NAMES = {"lenet-300-100": "LeNet-300-100, MNIST", "lenet5": "LeNet-5, 10,000 images of MNIST",
         "resnet20": "ResNet-20, CIFAR-10"}  # fmt: skip


def _records() -> dict[tuple[str, str, float], list[Record]]:
    found = defaultdict(list)
    for record in Records(FILE, KEY).all():
        found[record["network"], record["method"], record["ratio"]].append(record)
    return found


def techniques() -> str:
    """Test accuracy by network, technique and ratio: mean (sd) over seeds."""
    found = _records()
    if not found:
        return "Not measured yet."
    parts = [_network(found, network) for network in NAMES if any(key[0] == network for key in found)]
    return "\n\n".join(parts)


def _network(found: dict[tuple[str, str, float], list[Record]], network: str) -> str:
    ratios = sorted({key[2] for key in found if key[0] == network and not key[1].startswith("s1 ")})
    dense = [r for key, group in found.items() if key[:2] == (network, "dense") for r in group]
    trained = f"; trained on for as long: {_mean(dense)}" if dense else ""
    before = [r["dense_before"] for key, group in found.items() if key[0] == network for r in group
              if "dense_before" in r]  # fmt: skip
    lines = [f"**{NAMES[network]}**: dense {statistics.mean(before):.2f} %{trained}", "",
             "| technique | " + " | ".join(f"{ratio:g}x" for ratio in ratios) + " |",
             "|---" * (len(ratios) + 1) + "|"]  # fmt: skip
    for method in [*METHODS, "scratch"]:
        groups = [found.get((network, method, ratio), []) for ratio in ratios]
        if any(groups):
            cells = [_cell(group, found.get((network, CONTROL.get(method, ""), ratio), []))
                     for group, ratio in zip(groups, ratios, strict=True)]  # fmt: skip
            name = "the shape of `structured` from scratch" if method == "scratch" else f"`{method}`"
            lines.append(
                f"| {name if method in CONTROL or method == 'scratch' else method} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def _cell(group: Sequence[Record], control: Sequence[Record]) -> str:
    """In bold where every seed beats the control of the same seed."""
    done = [r for r in group if r["status"] == "done"]
    if not done:
        return "not possible" if group else ""
    other = {r["seed"]: r["accuracy"] for r in control if r["status"] == "done"}
    pairs = [(r["accuracy"], other[r["seed"]]) for r in done if r["seed"] in other]
    text = _mean(done)
    return f"**{text}**" if pairs and all(a > b for a, b in pairs) else text


def _mean(group: Sequence[Record], key: str = "accuracy") -> str:
    values = [record[key] for record in group]
    spread = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def costs() -> str:
    """What a technique makes of the network at 10x: sparsity, MACs, bytes, measured latency, seconds (seed 0)."""
    head = ("network", "technique", "parameters left", "zeros", "fewer MACs", "file", "deflated", "times faster",
            "CPU s")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (network, method, ratio), group in sorted(_records().items()):
        for r in group:
            if ratio != 10 or r["seed"] != 0 or method not in CONTROL or "thin_ms" not in r:
                continue
            faster = f"{r['dense_ms'] / r['thin_ms']:.2f}x" if r["cut"] else "zeros alone give no speed"
            cells = [NAMES[network], f"`{method}`", f"{r['parameters']:,}", f"{100 * r['sparsity']:.0f} %",
                     f"{r['dense_macs'] / r['macs']:.2f}x", f"{r['dense_bytes'] / r['thin_bytes']:.1f}x smaller",
                     f"{r['dense_deflated_bytes'] / r['thin_deflated_bytes']:.1f}x smaller", faster,
                     f"{r['cpu_s']:.0f}"]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def s1() -> str:
    """Rounds chosen on validation by the mean over seeds, then the test accuracy."""
    found: dict[tuple[str, str], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    dense = _records()
    for (network, method, _), group in dense.items():
        if method.startswith("s1 "):
            _, criterion, rounds = method.split()
            found[network, criterion][int(rounds)] += [r for r in group if r["status"] == "done"]
    if not found:
        return "Not measured yet."
    lines = ["| network | criterion | rounds | sparsity | test accuracy | against dense trained as long |",
             "|---" * 6 + "|"]  # fmt: skip
    for (network, criterion), by_rounds in sorted(found.items()):
        rounds = max(by_rounds, key=lambda n: statistics.mean(r["val"] for r in by_rounds[n]))
        group = by_rounds[rounds]
        controls = {r["seed"]: r["accuracy"] for r in dense.get((network, "dense", 2.0), [])}
        gaps = [r["accuracy"] - controls[r["seed"]] for r in group if r["seed"] in controls]
        gap = (
            f"{statistics.mean(gaps):+.2f}" + (f" ({statistics.stdev(gaps):.2f})" if len(gaps) > 1 else "")
            if gaps
            else ""
        )
        sparsity = statistics.mean(r["sparsity"] for r in group)
        lines.append(
            f"| {NAMES[network]} | {criterion} | {rounds} | {100 * sparsity:.0f} % | {_mean(group)} | {gap} |"
        )
    return "\n".join(lines)
