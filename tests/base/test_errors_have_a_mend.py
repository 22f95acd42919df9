"""Every error that a user can act on says how: found in the source, so that none is added without."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import neuroprune

ROOT = Path(neuroprune.__file__).parent


@pytest.mark.parametrize(
    "room",
    [
        "base",
        "graph",
        "tasks",
        "pruning",
        "recover",
        "budget",
        "export",
        "devices",
        "compression",
        "report",
        "pipeline",
    ],
)
def test_every_user_error_has_a_mend(room: str) -> None:
    without = []
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            raised = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError"
            if raised and not {"mend"} & {word.arg for word in node.keywords}:  # type: ignore[attr-defined]
                without.append(f"{file.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert without == []
