"""Ctrl-C at a chosen moment."""

from __future__ import annotations


class Stop:
    """A Progress that presses Ctrl-C after so many batches; ``titles``: what was started."""

    def __init__(self, after: int) -> None:
        self.left, self.titles = after, list[str]()

    def start(self, title: str, total: int) -> None:
        self.titles.append(f"{title}: {total}")

    def advance(self, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def finish(self, summary: str) -> None:
        pass

    def close(self) -> None:
        pass
