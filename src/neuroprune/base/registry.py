"""One registry per kind of thing (criterion, data set, step, device, export), filled by a decorator."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from neuroprune.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing: ``summary``: one line for ``neuroprune list``; ``source``: its paper or system."""

    name: str
    value: T
    summary: str
    source: str


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that looks most like ``name``, or None where none comes close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return close[0] if close else None


class Registry(Generic[T]):
    """Names to things of one ``kind``; unknown names raise a UserError that offers the nearest one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, summary: str, source: str = "") -> Callable[[T], T]:
        """Decorator: file a thing under ``name``. Raises ValueError when the name is taken."""

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, value, summary, source)
            return value

        return add

    def unregister(self, name: str) -> None:
        """Take ``name`` out again (for tests and plug-ins that clean up after themselves)."""
        self._entries.pop(name, None)

    def get(self, name: str) -> T:
        """The thing called ``name``. Raises UserError naming the nearest valid name."""
        if name in self._entries:
            return self._entries[name].value
        guess = nearest(name, self._entries)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(
            f"unknown {self.kind} {name!r}", mend=f"{hint}valid names: {', '.join(sorted(self._entries))}"
        )

    def names(self) -> list[str]:
        return sorted(self._entries)

    def entries(self) -> list[Entry[T]]:
        return [self._entries[name] for name in self.names()]
