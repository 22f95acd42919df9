"""The public surface: every name is there, whatever was imported first, and importing costs little."""

from __future__ import annotations

import subprocess
import sys

import neuroprune


def run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_importing_does_not_import_torch() -> None:
    run("import sys, neuroprune; assert 'torch' not in sys.modules")


def test_no_room_hides_a_verb() -> None:
    run(
        "import neuroprune, neuroprune.pruning.cut, neuroprune.compression, neuroprune.graph.trace\n"
        "import neuroprune.api, neuroprune.report\n"
        "for name in neuroprune.__all__:\n"
        "    assert callable(getattr(neuroprune, name)), name\n"
    )


def test_every_name_is_documented_and_listed() -> None:
    for name in neuroprune.__all__:
        assert getattr(neuroprune, name).__doc__, name
        assert name in dir(neuroprune)
