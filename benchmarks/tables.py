"""Write the tables of the documents from the committed results: `python benchmarks/tables.py [--check]`.

A table stands between `<!-- NAME: ... -->` and `<!-- /NAME -->` in one of `DOCUMENTS`; nobody types its numbers.
`--check` writes none and exits with 1 when a table is not what the results say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measuring import (
    cascade_tables,
    cluster_tables,
    free_summary,
    latency_tables,
    lottery_tables,
    quantize_tables,
    s4_tables,
    search_tables,
    size_tables,
    summary,
    technique_tables,
    transferred,
    without_training,
)

from neuroprune.base.files import read_json, write_text
from neuroprune.report.wording import quantity

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "cascade",
            "clusters",
            "coverage",
            "latency",
            "lottery",
            "masks",
            "mlperf_tiny",
            "quantize",
            "search",
            "s4",
            "second_order",
            "size",
            "techniques",
            "training_free",
            "transfer",
        )
    ),
)


def demo_table() -> str:
    """The demo's figures of the first seed, and the range of the targets over all seeds."""
    results: dict[str, Any] = read_json(ROOT / "benchmarks" / "results" / "demo.json")
    runs, machine = results["runs"], results["machine"]
    lines = ["| | before | after | change | |", "|---|---|---|---|---|"]
    for row in runs[0]["table"]:
        before, after = (quantity(row[key], row["unit"]) for key in ("before", "after"))
        lines.append(f"| {row['metric']} | {before} | {after} | {row['change']} | {row['kind']} |")
    low = {key: min(run[key] for run in runs) for key in ("times_smaller_file", "times_faster")}
    lost = max(run["accuracy_lost_points"] for run in runs)
    lines += [
        "",
        f"Seed {runs[0]['seed']}. Over {len(runs)} seeds: at least {low['times_faster']:.1f} times faster and "
        f"{low['times_smaller_file']:.0f} times smaller, at most {lost:.2f} points of accuracy lost, "
        f"{min(r['seconds'] for r in runs):.0f} to {max(r['seconds'] for r in runs):.0f} s and "
        f"{max(r['peak_memory_gb'] for r in runs):.2f} GB, on {machine['cores']} cores ({machine['cpu']}).",
    ]
    return "\n".join(lines)


def mask_overhead() -> str:
    results: dict[str, Any] = read_json(ROOT / "benchmarks" / "results" / "mask_overhead.json")
    lines = ["| network | optimizer | step | under masks | more |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['network']} | {row['optimizer']} | {row['dense_ms']:.3g} ms | {row['masked_ms']:.3g} ms "
        f"| {100 * row['overhead']:.1f} % |"
        for row in results["rows"]
    ]
    machine = results["machine"]
    lines += ["", f"CPU time, one thread ({machine['cpu']}), medians of interleaved steps; neuroprune at "
              f"{results['versions']['commit']}."]  # fmt: skip
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "demo-table": demo_table,
    "mask-overhead": mask_overhead,
    **cascade_tables.TABLES,
    **cluster_tables.TABLES,
    "training-free": free_summary.training_free,
    **summary.TABLES,
    **latency_tables.TABLES,
    **lottery_tables.TABLES,
    **s4_tables.TABLES,
    **quantize_tables.TABLES,
    "techniques": technique_tables.techniques,
    "technique-costs": technique_tables.costs,
    "s1": technique_tables.s1,
    **transferred.TABLES,
    **without_training.TABLES,
    **search_tables.TABLES,
    **size_tables.TABLES,
}


def filled(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """``text`` with every table as the committed results say. Raises KeyError for a name that no table has."""
    return re.sub(
        r"(<!-- ([\w-]+):[^>]*-->\n).*?(<!-- /\2 -->)",
        lambda m: f"{m[1]}{tables[m[2]]()}\n{m[3]}",
        text,
        flags=re.S,
    )


def write() -> None:
    for document in DOCUMENTS:
        write_text(document, filled(document.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        write()
        return
    old = [d.name for d in DOCUMENTS if filled(text := d.read_text()) != text]
    if old:
        sys.exit(f"not what benchmarks/results say: {', '.join(old)}; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
