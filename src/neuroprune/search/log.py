"""Finished evaluations on disk: one JSON object per line, appended and synced; several processes may share a file.

A line torn by a crash is dropped: its result was never used, since use comes after the sync.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroprune.base.errors import UserError
from neuroprune.base.files import locked


class Lines:
    """The lines of ``path``, in order. ``read`` takes in what was appended since, by whichever process."""

    def __init__(self, path: Path | None) -> None:
        """``path``: None keeps them in memory alone."""
        self.path, self.offset = path, 0
        self.unread: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """New lines since the last call. Raises UserError for a damaged line that others follow."""
        if self.path is None or not self.path.exists():
            new, self.unread = self.unread, []
            return new
        with self.path.open("rb") as file:
            file.seek(self.offset)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # torn, or another process is writing it just now
        self.offset += sum(map(len, lines))
        return [self._parsed(line) for line in lines]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Whole or absent, after what others wrote meanwhile. Raises UserError when the disk is full."""
        if self.path is None:
            self.unread.append(dict(entry))
            return
        line = json.dumps(entry, sort_keys=True, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file, locked(self.path.parent):
                _without_torn_end(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path.name}: {error.strerror or error}", where=str(self.path.parent),
                mend="free some space, then go on with --resume",
            ) from error  # fmt: skip

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if isinstance(entry, dict):
                return entry
        except ValueError:
            pass
        raise UserError(
            f"a line of {self.path.name if self.path else 'the log'} is damaged", where=str(self.path),
            value=repr(line[:80]), mend="start again in a new folder; the results cannot be trusted any more",
        )  # fmt: skip


def _without_torn_end(file: Any) -> None:
    """Or the next line would be glued to what a killed process left."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end:
        start = max(end - 4096, 0)
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    file.seek(0, os.SEEK_END)
