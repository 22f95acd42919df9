"""Bytes in and out: little-endian numbers, LEB128 counts, and a reader that never reads past its end."""

from __future__ import annotations

#: a count takes at most this many bytes (63 bits)
_LONGEST_COUNT = 9


class Damaged(Exception):
    """The bytes are not what the format says. The public verbs turn it into a UserError that names the file."""


class OverLimit(Damaged):
    """Or they are, and announce more than the caller allows."""


class Writer:
    """Collects bytes."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def byte(self, value: int) -> None:
        self._parts.append(value)

    def count(self, value: int) -> None:
        """An unsigned LEB128 number: seven bits per byte, low ones first, the top bit says that more follow."""
        while value > 0x7F:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def add(self, data: bytes) -> None:
        self._parts += data

    def getvalue(self) -> bytes:
        return bytes(self._parts)


class Reader:
    """Reads what `Writer` wrote. Every read is checked against what is left; raises `Damaged`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view, self._position = memoryview(data), 0

    @property
    def left(self) -> int:
        return len(self._view) - self._position

    def byte(self) -> int:
        return self.take(1)[0]

    def count(self, limit: int) -> int:
        """A LEB128 number of at most ``limit``."""
        value = 0
        for place in range(_LONGEST_COUNT):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                break
        else:
            raise Damaged("a number is longer than 9 bytes")
        if value > limit:
            raise Damaged(f"a number is {value:,} where at most {limit:,} is possible")
        return value

    def take(self, length: int) -> memoryview:
        if length > self.left:
            raise Damaged(f"{length:,} bytes are announced and {self.left:,} are left")
        start = self._position
        self._position += length
        return self._view[start : self._position]

    def end(self) -> None:
        if self.left:
            raise Damaged(f"{self.left:,} bytes are left over")
