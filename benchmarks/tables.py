"""Write the tables of README.md from the committed results: `python benchmarks/tables.py [--check]`.

A table stands between `<!-- NAME: ... -->` and `<!-- /NAME -->`; nobody types its numbers. `--check` writes none
and exits with 1 when a table is not what the results say.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from neuroprune.base.files import read_json, write_text
from neuroprune.report.wording import quantity

ROOT = Path(__file__).resolve().parents[1]


def demo_table(results: dict[str, Any]) -> str:
    """The demo's figures of the first seed, and the range of the targets over all seeds."""
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


def filled(text: str) -> str:
    """README.md with its table as the committed results say."""
    table = demo_table(read_json(ROOT / "benchmarks" / "results" / "demo.json"))
    return re.sub(
        r"(<!-- demo-table:[^>]*-->\n).*?(<!-- /demo-table -->)",
        lambda m: f"{m[1]}{table}\n{m[2]}",
        text,
        flags=re.S,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = filled(before)
    if check and after != before:
        sys.exit("README.md is not what benchmarks/results say: run python benchmarks/tables.py")
    if not check:
        write_text(readme, after)


if __name__ == "__main__":
    main()
