"""The rooms may import downwards only: the table of docs/architecture.md, enforced on the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "neuroprune"


def allowed() -> dict[str, set[str]]:
    """Room -> rooms it may import, read from the table in docs/architecture.md."""
    table: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        row = re.match(r"\| `(\w+)` \|[^|]*\|([^|]*)\|", line)
        if row:
            table[row[1]] = set(re.findall(r"`(\w+)`", row[2]))
    return table


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "neuroprune" and len(parts) > 1:
                found.add(parts[1])
    rooms = {p.name for p in SOURCE.iterdir() if p.is_dir()} | {p.stem for p in SOURCE.glob("*.py")}
    return (found & rooms) - {"__init__"}


FILES = sorted(p for p in SOURCE.rglob("*.py") if room_of(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    room = room_of(path)
    table = allowed()
    assert room in table, f"docs/architecture.md has no row for {room!r}"
    assert imported_rooms(path) - {room} <= table[room]


def test_the_table_has_no_cycle_and_no_empty_room() -> None:
    table = allowed()
    done: set[str] = set()
    while len(done) < len(table):
        ready = {room for room in table if room not in done and table[room] <= done}
        assert ready, f"these rooms import each other: {sorted(set(table) - done)}"
        done |= ready
    for room in table:
        assert (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").is_file(), f"no such room: {room}"
