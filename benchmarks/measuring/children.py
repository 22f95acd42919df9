"""One measurement, one process: its memory is its own, and it can be stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring.records import Record, plain
from neuroprune.base.files import write_json

#: set when the user presses Ctrl-C: children end, and what they had is not recorded
STOP = threading.Event()


class Stopped(Exception):
    """The user stopped the sweep while this child ran."""


def run_child(words: Sequence[str], limit_s: float, limit_mb: float = float("inf")) -> Record:
    """What ``python words… --out FILE`` wrote last, with ``seconds``.

    ``status`` is the child's own where it ended by itself; ``timeout`` after ``limit_s``; ``error`` where it took
    more than ``limit_mb`` of memory, crashed, or wrote nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, noise = Path(folder) / "record.json", Path(folder) / "noise.txt"
        began = time.perf_counter()
        with noise.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, *words, "--out", str(out)], stdout=stream, stderr=stream, env=_environment(),
                start_new_session=True,
            )  # fmt: skip
            ended = _wait(child, began + limit_s, limit_mb)
        record: Record = json.loads(out.read_text()) if out.exists() else {}
        record["seconds"] = round(time.perf_counter() - began, 2)
        return record | _verdict(ended, record, child.returncode, noise)


def _environment() -> dict[str, str]:
    """Quiet and single-threaded: CPU seconds of one model should not depend on who else is working."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
            "PYTHONFAULTHANDLER": "1"}  # fmt: skip


def _wait(child: subprocess.Popen[bytes], until: float, limit_mb: float) -> str:
    try:
        while child.poll() is None:
            if STOP.is_set():
                raise Stopped
            if time.perf_counter() > until:
                return "timeout"
            if _resident_mb(child.pid) > limit_mb:
                return "memory"
            time.sleep(0.1)
        return "done"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):  # it has just ended, or this is no Linux
        return 0.0
    return pages * resource.getpagesize() / 1e6


def _verdict(ended: str, record: Record, code: int, noise: Path) -> Record:
    stage = record.get("stage", "start")
    if ended == "timeout":
        return {"status": "timeout", "problem": f"at stage {stage}"}
    if ended == "memory":
        return {"status": "error", "problem": f"more memory than allowed at stage {stage}"}
    if code == 0 and "status" in record:
        return {}
    return {"status": "error", "problem": f"ended with {code} at stage {stage}: {_last_words(code, noise)}"}


def _last_words(code: int, noise: Path) -> str:
    """The exception's own line; for a crash outside Python (a negative code) the innermost line of Python."""
    lines = noise.read_text(errors="replace").strip().splitlines() or [""]
    if code >= 0:
        return lines[-1][:300]
    return next((line.strip() for line in lines if line.startswith("  File ")), signal.Signals(-code).name)


class Report:
    """What a child tells its parent: the whole record so far, written again at every stage."""

    def __init__(self, path: Path) -> None:
        self.path, self.record = path, {}

    def tell(self, **news: Any) -> None:
        self.record |= news
        self.record["peak_mb"] = peak_mb()
        write_json(self.path, plain(self.record))


def peak_mb() -> float:
    """The largest memory this process has held, in MB (the system counts kilobytes on Linux, bytes on macOS)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
