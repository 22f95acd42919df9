"""What a codec is: a function each way between an array of bit patterns and bytes."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from neuroprune.base.registry import Registry
from neuroprune.compression.npc.wire import Damaged, Reader, Writer

Bits = NDArray[Any]  # unsigned integers of 1, 2, 4 or 8 bytes
Kind = Literal["unsigned", "signed", "float"]

#: a tensor of more dimensions than numpy takes cannot be
MAX_RANK = 32


@dataclass(frozen=True)
class Plain:
    """A tensor on its way in: bit patterns as unsigned integers of the element's size, and how they are ordered.

    ``shape`` of ``bits`` is the tensor's. ``hint``: the shape of the weights that the elements are halves of,
    where 4-bit weights are packed two to a byte (see ``nibbles``). ``fast``: large tensors may take up to 1 % more
    where that decodes faster.
    """

    bits: Bits
    kind: Kind
    hint: tuple[int, ...] | None
    fast: bool

    @property
    def itemsize(self) -> int:
        return self.bits.dtype.itemsize


class Codec(abc.ABC):
    """One way to code a tensor. ``number`` stands for it in the file and never changes its meaning.

    ``simple`` codecs code parts of other codecs' payloads, and contain no parts themselves.
    """

    number: ClassVar[int]
    simple: ClassVar[bool] = False

    @abc.abstractmethod
    def encode(self, plain: Plain) -> bytes | None:
        """The payload, or None where this codec is not made for such a tensor."""

    @abc.abstractmethod
    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        """The bit patterns in ``shape``. Reads to the end of ``reader``; raises `Damaged`.

        May allocate a small multiple of the result's size, which the caller has checked against a limit.
        """


CODECS: Registry[Codec] = Registry("codec of tensors")


def codec_of(number: int, *, simple: bool = False) -> Codec:
    """The codec with this number. Raises `Damaged`."""
    for entry in CODECS.entries():
        if entry.value.number == number and (entry.value.simple or not simple):
            return entry.value
    raise Damaged(f"codec {number} is unknown")


def best_codec(plain: Plain, *, simple: bool = False) -> tuple[Codec, bytes]:
    """The codec with the fewest bytes for ``plain``, and its payload (raw takes everything)."""
    found: list[tuple[int, int, Codec, bytes]] = []
    for entry in CODECS.entries():
        codec = entry.value
        if simple and not codec.simple:
            continue
        payload = codec.encode(plain)
        if payload is not None:
            found.append((len(payload), codec.number, codec, payload))
    return min(found, key=lambda row: row[:2])[2:]


def write_part(writer: Writer, plain: Plain) -> None:
    """A tensor inside a payload: the number of a simple codec, the length, the payload."""
    codec, payload = best_codec(plain, simple=True)
    writer.byte(codec.number)
    writer.count(len(payload))
    writer.add(payload)


def read_part(reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
    codec = codec_of(reader.byte(), simple=True)
    part = Reader(reader.take(reader.count(reader.left)))
    bits = codec.decode(part, shape, itemsize)
    part.end()
    return bits


def unsigned(itemsize: int) -> np.dtype[Any]:
    """Little-endian unsigned integers of this size."""
    return np.dtype(f"<u{itemsize}")


def array_of(data: bytes | memoryview, itemsize: int) -> Bits:
    return np.frombuffer(data, dtype=unsigned(itemsize))
