"""A step's view of the progress: many inner bars, one title, and only the runner says when it is done."""

from __future__ import annotations

from neuroprune.base.progress import Progress


class StepProgress:
    """Shows inner work (a training, a pass over the data) under the title of the step it belongs to."""

    def __init__(self, inner: Progress, title: str) -> None:
        self._inner, self._title, self._part = inner, title, ""

    def start(self, title: str, total: int) -> None:
        self._part = title
        self._inner.start(self._title, total)

    def advance(self, note: str = "") -> None:
        self._inner.advance(f"{self._part} {note}".strip())

    def finish(self, summary: str) -> None:
        pass

    def close(self) -> None:
        self._inner.close()
