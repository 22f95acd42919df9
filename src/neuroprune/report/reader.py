"""Read one mapping of the results document, key by key, into plain types.

The document comes from another room and in the end from the user's model (layer names, notes), so nothing in
it is trusted: text is stripped of what no HTML page can hold, numbers may be NaN, infinite or absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TypeVar

from neuroprune.base.errors import UserError

T = TypeVar("T")

#: control characters (HTML forbids them) and lone surrogates (UTF-8 cannot hold them)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def clean(text: str) -> str:
    """``text`` with everything that cannot stand in a UTF-8 HTML page replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def as_number(value: object) -> float | None:
    """A float for any real number (NaN and infinities stay), None for None. Raises TypeError otherwise."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1.8e308
        return math.inf if isinstance(value, int) and value > 0 else -math.inf


class Reader:
    """One mapping of the document and where it stands (``table[3]``), for messages that point at the spot.

    An absent key reads as None, empty text or an empty list; a value of the wrong type raises UserError.
    """

    def __init__(self, value: object, where: str = "results") -> None:
        if not isinstance(value, Mapping):
            raise _mistyped(where, value, "an object")
        self.value: Mapping[object, object] = value
        self.where = where

    def number(self, key: str) -> float | None:
        try:
            return as_number(self.value.get(key))
        except TypeError:
            raise _mistyped(self._spot(key), self.value[key], "a number or null") from None

    def whole(self, key: str) -> int:
        """An integer; absent and not finite read as 0."""
        value = self.number(key)
        return int(value) if value is not None and math.isfinite(value) else 0

    def text(self, key: str) -> str:
        """Text; a number is written out, absent reads as ``""``."""
        value = self.value.get(key)
        if value is None:
            return ""
        if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
            raise _mistyped(self._spot(key), value, "text")
        return clean(str(value))

    def flag(self, key: str) -> bool | None:
        value = self.value.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise _mistyped(self._spot(key), value, "true, false or null")

    def child(self, key: str, read: Callable[[Reader], T]) -> T | None:
        value = self.value.get(key)
        return None if value is None else read(Reader(value, self._spot(key)))

    def children(self, key: str, read: Callable[[Reader], T]) -> tuple[T, ...]:
        return tuple(read(Reader(item, f"{self._spot(key)}[{i}]")) for i, item in enumerate(self._list(key)))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(clean(str(item)) for item in self._list(key))

    def mapping(self, key: str) -> dict[str, object]:
        """A free-form object (versions, machine facts): keys become clean text, values stay as they are."""
        value = self.value.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _mistyped(self._spot(key), value, "an object")
        return {clean(str(name)): item for name, item in value.items()}

    def _list(self, key: str) -> Sequence[object]:
        value = self.value.get(key)
        if value is None:
            return ()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _mistyped(self._spot(key), value, "a list")
        return value

    def _spot(self, key: str) -> str:
        return key if self.where == "results" else f"{self.where}.{key}"


def _mistyped(where: str, value: object, wanted: str) -> UserError:
    return UserError(
        f"the results document holds {type(value).__name__} where {wanted} belongs",
        where=where,
        value=clean(repr(value))[:80],
        mend="write results.json as schema 1 describes it, or run the recipe again",
    )
