"""Free-form parts of the document (machine, hyper-parameters) as a tree of finished text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeGuard

from neuroprune.report.reader import as_number, clean
from neuroprune.report.wording import plain, plural, size

#: deeper nesting and longer lists are named, not drawn
_DEPTH, _LENGTH = 4, 200


@dataclass(frozen=True)
class Node:
    """A name with either ``text`` or ``children``."""

    name: str
    text: str
    children: tuple[Node, ...] = ()

    @property
    def brief(self) -> bool:
        """Whether the children are a few words each, and read better side by side than below each other."""
        return all(not child.children and len(child.name) + len(child.text) < 40 for child in self.children)


def worded(mapping: Mapping[str, object]) -> dict[str, object]:
    """Keys as words, byte counts as sizes: ``memory_bytes: 8331419648`` reads ``memory: 8.33 GB``."""
    return dict(_worded(key, value) for key, value in mapping.items())


def _worded(key: str, value: object) -> tuple[str, object]:
    if isinstance(value, Mapping):
        return key.replace("_", " "), worded({str(name): item for name, item in value.items()})
    if key.endswith("_bytes") and isinstance(value, Real) and not isinstance(value, bool):
        return key.removesuffix("_bytes").replace("_", " "), size(as_number(value))
    return key.replace("_", " "), value


def nodes(mapping: Mapping[str, object], depth: int = 0) -> tuple[Node, ...]:
    """The entries in their own order; what is left out because there is too much of it is said."""
    items = list(mapping.items())
    shown = tuple(_node(clean(str(name)), value, depth) for name, value in items[:_LENGTH])
    rest = len(items) - len(shown)
    return (*shown, Node("…", f"{plural(rest, 'more entry', 'more entries')} left out")) if rest else shown


def _node(name: str, value: object, depth: int) -> Node:
    if isinstance(value, Mapping) and value:
        if depth >= _DEPTH:
            return Node(name, f"{plural(len(value), 'entry', 'entries')}, nested too deeply to show")
        return Node(name, "", nodes({str(key): item for key, item in value.items()}, depth + 1))
    if _is_list(value) and any(isinstance(item, Mapping) or _is_list(item) for item in value):
        return _node(name, {str(i + 1): item for i, item in enumerate(value)}, depth)
    return Node(name, text_of(value))


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def text_of(value: object) -> str:
    if value is None or value == {} or value == []:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) < 10**15:
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, Real):
        return plain(as_number(value), 6)
    if _is_list(value):
        shown = ", ".join(text_of(item) for item in value[:_LENGTH])
        rest = len(value) - _LENGTH
        return f"{shown}, … ({plural(rest, 'more entry', 'more entries')} left out)" if rest > 0 else shown
    return clean(str(value))
