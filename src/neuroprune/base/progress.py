"""What long work reports to: a bar on a terminal, one plain line per step in a log, or nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress(Protocol):
    """One step at a time: ``start``, any number of ``advance``, ``finish``.

    Work that is only a part of a step (``recover.fit``) starts and advances; whoever owns the step
    finishes it, because only the owner knows the one-line result.
    """

    def start(self, title: str, total: int) -> None:
        """Begin ``title``, which takes ``total`` advances; a bar that is still open is replaced."""

    def advance(self, note: str = "") -> None:
        """One of ``total`` is done; ``note`` (loss, accuracy) replaces the last one unless it is empty."""

    def finish(self, summary: str) -> None:
        """The one-line result of the step; also works without a ``start``."""

    def close(self) -> None:
        """Take an open bar away without a result: after an error or Ctrl-C."""


class SilentProgress:
    """Says nothing: for tests and for callers that only want the result."""

    def start(self, title: str, total: int) -> None:
        pass

    def advance(self, note: str = "") -> None:
        pass

    def finish(self, summary: str) -> None:
        pass

    def close(self) -> None:
        pass


class RichProgress:
    """A rich bar on standard error where that is a terminal, otherwise one plain line per finished step."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._title = ""
        self._began: float | None = None

    def start(self, title: str, total: int) -> None:
        if self._began is None or title != self._title:
            # a step may open several bars under one title: its line tells the time of all of them
            self._title, self._began = title, time.perf_counter()
        self.close()
        if not self._console.is_terminal:
            return
        self._bar = _new_bar(self._console)
        self._bar.add_task(title, total=max(total, 1), note="")
        self._bar.start()

    def advance(self, note: str = "") -> None:
        if self._bar is None:
            return
        task = self._bar.tasks[0]
        self._bar.update(task.id, advance=1, note=note or task.fields["note"])

    def finish(self, summary: str) -> None:
        self.close()
        seconds = "" if self._began is None else f" ({time.perf_counter() - self._began:.1f} s)"
        head = f"{self._title}: " if self._title else ""
        line = f"{head}{summary}{seconds}"
        if self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False)
        else:  # a log keeps each step on one line, however narrow rich believes it to be
            print(line, file=self._console.file, flush=True)
        self._title, self._began = "", None

    def close(self) -> None:
        """Take the bar away without a result (after an error or Ctrl-C too); only finished lines stay."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _new_bar(console: Console) -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
    )
