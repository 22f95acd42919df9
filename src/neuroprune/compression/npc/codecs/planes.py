"""Numbers without repetition: first bytes apart from second bytes, and so on, each coded for itself.

The high bytes of floating-point weights hold sign and exponent, which take few values; the low bytes are noise.
"""

from __future__ import annotations

import math

import numpy as np

from neuroprune.compression.npc._base import CODECS, Bits, Codec, Plain, read_part, unsigned, write_part
from neuroprune.compression.npc.wire import Reader, Writer


class Planes(Codec):
    number = 3

    def encode(self, plain: Plain) -> bytes | None:
        if plain.itemsize == 1:
            return None
        writer = Writer()
        bits = _rotated(plain.bits, plain.kind == "float")
        writer.byte(int(plain.kind == "float"))
        columns = np.ascontiguousarray(bits).view(np.uint8).reshape(*bits.shape, plain.itemsize)
        for plane in range(plain.itemsize):
            write_part(writer, Plain(np.ascontiguousarray(columns[..., plane]), "unsigned", None, plain.fast))
        return writer.getvalue()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        rotate = bool(reader.byte())
        columns = np.empty((math.prod(shape), itemsize), np.uint8)
        for plane in range(itemsize):
            columns[:, plane] = read_part(reader, shape, 1).ravel()
        bits = columns.view(unsigned(itemsize)).reshape(shape)
        return _rotated_back(bits) if rotate else bits


def _rotated(bits: Bits, rotate: bool) -> Bits:
    """The sign goes from the top to the bottom, so that a float32's exponent fills the top byte."""
    if not rotate:
        return bits
    width = bits.dtype.itemsize * 8
    one = bits.dtype.type(1)
    rotated: Bits = (bits << one) | (bits >> bits.dtype.type(width - 1))
    return rotated


def _rotated_back(bits: Bits) -> Bits:
    width = bits.dtype.itemsize * 8
    one = bits.dtype.type(1)
    restored: Bits = (bits >> one) | (bits << bits.dtype.type(width - 1))
    return restored


CODECS.register("planes", summary="byte planes of floating-point or wide integers, each coded for itself")(
    Planes()
)
