"""One measurement, one process: its memory is its own, and it can be stopped."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import json
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from measuring.records import Record, plain
from neuroprune.base.files import write_json

#: set when the user presses Ctrl-C: children end, and what they had is not recorded
STOP = threading.Event()


class Stopped(Exception):
    """The user stopped the sweep while this child ran."""


def sweep_or_one(
    options: Any, sweep: Callable[[Any], None], measure: Callable[[Any, Report], None], data: Path | None = None
) -> None:
    """``main`` of a benchmark whose command starts itself once per figure: the sweep, or with ``--one`` a figure.

    Ends with a message where ``data`` is not there, and where the user stops the sweep.
    """
    if data is not None and not data.exists():
        sys.exit(f"the data is not there: {data}")
    if options.one:
        measure(options, Report(options.out))
        return
    try:
        sweep(options)
    except (KeyboardInterrupt, Stopped):
        sys.exit("stopped; what was measured is kept, the same command goes on")


def add_sweep_options(parser: argparse.ArgumentParser, limit_s: float) -> None:
    """What `sweep_or_one` and the sweeps read: what to measure again, and for the child where its figure goes."""
    parser.add_argument("--again", nargs="*", default=[], help="statuses to measure again, stale, or all")
    parser.add_argument("--limit-s", type=float, default=limit_s, help="of one measurement")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)


def run_child(words: Sequence[str], limit_s: float, limit_mb: float = float("inf")) -> Record:
    """What ``python words… --out FILE`` wrote last, with ``seconds``.

    ``status`` is the child's own where it ended by itself; ``timeout`` after ``limit_s``; ``error`` where it took
    more than ``limit_mb`` of memory, crashed, or wrote nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, noise = Path(folder) / "record.json", Path(folder) / "noise.txt"
        noise.touch()
        began = time.perf_counter()
        child = _context().Process(target=_play, args=([*words, "--out", str(out)], str(noise)))
        child.start()
        ended = _wait(child, began + limit_s, limit_mb)
        record: Record = json.loads(out.read_text()) if out.exists() else {}
        record["seconds"] = round(time.perf_counter() - began, 2)
        return record | _verdict(ended, record, child.exitcode or 0, noise)


@functools.cache
def _context() -> ForkServerContext:
    """Children are forked off a process that has imported everything and done nothing: seconds saved for each.

    Quiet and single-threaded: CPU seconds of one model should not depend on who else is working.
    """
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                   "PYTHONPATH": os.pathsep.join(paths)}  # fmt: skip
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measuring.preload"])
    return context


def _play(words: Sequence[str], noise: str) -> None:
    """What ``python words…`` does, in this process; what it prints goes to a file."""
    os.setsid()
    with open(noise, "wb", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.enable()
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")


def _wait(child: ForkServerProcess, until: float, limit_mb: float) -> str:
    try:
        while child.is_alive():
            if STOP.is_set():
                raise Stopped
            if time.perf_counter() > until:
                return "timeout"
            if _resident_mb(child.pid or 0) > limit_mb:
                return "memory"
            time.sleep(0.05)
        return "done"
    finally:
        if child.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid or 0, signal.SIGKILL)
            child.kill()  # where it had no time to make a group of its own
            child.join()


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
