"""Results as JSON lines, one record each, so that a sweep resumes and its changes can be read in a diff."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from neuroprune.base.files import locked, write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Record = dict[str, Any]


class Records:
    """The records of one file, told apart by ``key``; every ``put`` leaves a whole file behind."""

    def __init__(self, path: Path, key: Sequence[str] = ("model", "ratio")) -> None:
        self.path, self.key = path, tuple(key)

    def all(self) -> list[Record]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def by_key(self) -> dict[tuple[Any, ...], Record]:
        return {self.key_of(record): record for record in self.all()}

    def key_of(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in self.key)

    def put(self, record: Record) -> None:
        """Replace the record of the same key; other processes may be writing other records meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            kept = self.by_key()
            kept[self.key_of(record)] = plain(record)
            lines = [json.dumps(kept[key], sort_keys=True, allow_nan=False) for key in sorted(kept, key=repr)]
            write_text(self.path, "\n".join(lines) + "\n")


def to_do(
    keys: Sequence[tuple[Any, ...]],
    done: Mapping[tuple[Any, ...], Mapping[str, Any]],
    again: Collection[str],
    commit: str | None = None,
) -> list[tuple[Any, ...]]:
    """The keys that are to be measured: those without a record, and those that ``again`` names.

    ``again``: statuses (``timeout``), ``stale`` (measured at another commit) or ``all``.
    """

    def wanted(record: Mapping[str, Any]) -> bool:
        stale = "stale" in again and record.get("versions", {}).get("commit") != commit
        return "all" in again or record.get("status") in again or stale

    return [key for key in keys if key not in done or wanted(done[key])]


def plain(value: Any) -> Any:
    """What a record may hold: six digits of a number, None for NaN and the infinities, no path of this machine."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return without_paths(value) if isinstance(value, str) else value


def without_paths(text: str) -> str:
    """Files of packages from the package's name on, files of this checkout from its root on."""
    text = re.sub(r"/[^\s:'\"]*?/(?:site|dist)-packages/", "", text)
    text = re.sub(r"/[^\s:'\"]*?/lib/python3\.\d+/", "", text)
    text = text.replace(f"{ROOT}/", "")
    return re.sub(r"/(?:tmp|home|root|work)/[^\s:'\"]*/", "", text)


def versions(*packages: str) -> dict[str, str | None]:
    """The state of neuroprune's source (see `commit`) and the releases of torch and ``packages``."""
    found: dict[str, str | None] = {"commit": commit()}
    for package in ("torch", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """The last commit that changed src/, and a digest of what is not committed there; None without a history.

    Committing results does not make them stale.
    """
    last = _git("log", "-1", "--format=%h", "--abbrev=12", "--", "src")
    changes = _git("diff", "HEAD", "--", "src")
    if last is None or changes is None:
        return None
    return f"{last}+{hashlib.sha1(changes.encode()).hexdigest()[:6]}" if changes else last


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        return None
    return done.stdout.strip()
