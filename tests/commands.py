"""Commands as a test types them: in this process, or in one of their own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from neuroprune.cli import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def neuroprune(*words: str | Path, cwd: Path) -> Done:
    """One command inside this process: importing torch for each of them would take minutes."""
    out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
    sys.argv = ["neuroprune", *map(str, words)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        return Done(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        os.chdir(before)
        sys.argv = argv
    raise AssertionError("main returned")


def in_a_process(*words: str | Path, cwd: Path, before: Callable[[], None] | None = None) -> Done:
    """One command as the user types it."""
    command = [sys.executable, "-m", "neuroprune", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, preexec_fn=before)
    return Done(done.returncode, done.stdout, done.stderr)


def fails(*words: str | Path, cwd: Path, code: int = 2, says: list[str]) -> None:
    """Exit code, one message with these parts, no traceback, nothing on standard output."""
    done = neuroprune(*words, cwd=cwd)
    assert done.returncode == code, done.stderr
    for part in says:
        assert part in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
