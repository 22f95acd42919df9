"""Progress: a bar only on a terminal, one line per step everywhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from neuroprune.base.progress import RichProgress, SilentProgress


def _run(progress: RichProgress) -> None:
    progress.start("train", 3)
    for loss in (0.3, 0.2, 0.1):
        progress.advance(f"loss {loss}")
    progress.finish("98.9 % accuracy")


def test_a_log_gets_one_plain_line_per_step() -> None:
    out = io.StringIO()
    _run(RichProgress(Console(file=out, force_terminal=False, width=20)))
    assert re.fullmatch(r"train: 98\.9 % accuracy \(\d+\.\d s\)\n", out.getvalue())


def test_a_terminal_gets_a_bar_and_keeps_the_line() -> None:
    out = io.StringIO()
    _run(RichProgress(Console(file=out, force_terminal=True, width=100)))
    assert "3/3" in out.getvalue()
    assert "loss 0.1" in out.getvalue()
    assert "train: 98.9 % accuracy" in out.getvalue().splitlines()[-1]


def test_brackets_in_notes_are_no_markup() -> None:
    out = io.StringIO()
    progress = RichProgress(Console(file=out, force_terminal=True, width=100))
    progress.start("cut [1/2]", 1)
    progress.advance("[/nonsense]")
    progress.finish("kept [3, 4]")
    assert "kept [3, 4]" in out.getvalue()
    assert "[1/2]" in out.getvalue()


def test_finish_needs_no_start_and_an_open_bar_is_replaced() -> None:
    out = io.StringIO()
    progress = RichProgress(Console(file=out, force_terminal=False))
    progress.finish("nothing to do")
    progress.start("first", 1)
    progress.start("second", 0)
    progress.advance()
    progress.finish("done")
    first, second = out.getvalue().splitlines()
    assert first == "nothing to do"
    assert second.startswith("second: done (")


def test_silence_says_nothing(capsys) -> None:  # type: ignore[no-untyped-def]
    progress = SilentProgress()
    progress.start("a", 1)
    progress.advance("b")
    progress.finish("c")
    assert capsys.readouterr() == ("", "")
