"""The journal: every measurement is written down once, so that a resumed run replays it.

Times on a machine never repeat; decisions that follow from them must. One JSON object per line, appended
and synced. A line torn by a crash is dropped: its measurement was never used, since use comes after the sync.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuroprune.base.errors import UserError


class Journal:
    """Measurements by key, kept in ``path``. Raises UserError when a line before the last is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        whole = self._read()
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)  # or the next line would be glued to the torn one

    def _read(self) -> int:
        """Fill the table; return the length in bytes of the part that is whole."""
        if not self.path.exists():
            return 0
        whole = 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            entry = _parse(line)
            if entry is None and number < len(lines):
                raise UserError(
                    f"line {number} of the journal is damaged",
                    where=str(self.path),
                    mend="start again in a new folder; the measurements cannot be trusted any more",
                )
            if entry is None:
                break
            self._values[entry[0]] = entry[1]
            whole += len(line)
        return whole

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def measure(self, key: str, take: Callable[[], Any]) -> Any:
        """The recorded value of ``key``; where there is none, ``take()`` is called and its value recorded.

        The value must be plain JSON, and the one returned has always gone through JSON: a run that replays
        sees exactly what the run that measured saw. Raises UserError when the disk is full.
        """
        if key not in self._values:
            text = json.dumps({"key": key, "value": take()}, sort_keys=True, allow_nan=False)
            self._append(text.encode() + b"\n")
            self._values[key] = json.loads(text)["value"]
        return self._values[key]

    def _append(self, line: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path.name}: {error.strerror or error}",
                where=str(self.path.parent),
                mend="free some space, then run the same command with --resume",
            ) from error


def _parse(line: bytes) -> tuple[str, Any] | None:
    """Key and value, or None for a line that is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        return str(entry["key"]), entry["value"]
    except (ValueError, KeyError, TypeError):
        return None
