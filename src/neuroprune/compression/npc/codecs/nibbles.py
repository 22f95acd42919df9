"""Two 4-bit values per byte, taken apart and coded as 4-bit weights in the weights' own shape."""

from __future__ import annotations

import math

import numpy as np

from neuroprune.compression.npc._base import CODECS, MAX_RANK, Bits, Codec, Plain, read_part, write_part
from neuroprune.compression.npc.wire import Damaged, Reader, Writer


class Nibbles(Codec):
    """The first half of the values lies in the low bits, the second half in the high bits, as
    ``compression.codebook`` packs them; an odd number of values leaves the last high nibble at zero."""

    number = 4

    def encode(self, plain: Plain) -> bytes | None:
        count = 2 * plain.bits.size
        if plain.itemsize != 1 or plain.hint is None or not count:
            return None
        flat = plain.bits.ravel()
        values = np.concatenate([flat & 15, flat >> 4])
        size = math.prod(plain.hint)
        if size not in (count, count - 1) or values[size:].any():
            return None
        writer = Writer()
        writer.count(len(plain.hint))
        for length in plain.hint:
            writer.count(length)
        write_part(writer, Plain(values[:size].reshape(plain.hint), "unsigned", None, plain.fast))
        return writer.getvalue()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        size = math.prod(shape)
        inner = tuple(reader.count(2 * size) for _ in range(reader.count(MAX_RANK)))
        if itemsize != 1 or math.prod(inner) not in (2 * size, 2 * size - 1):
            raise Damaged("4-bit weights do not fill their bytes")
        values = np.zeros(2 * size, np.uint8)
        values[: math.prod(inner)] = read_part(reader, inner, 1).ravel()
        if (values > 15).any():
            raise Damaged("a 4-bit weight is over 15")
        packed: Bits = values[:size] | (values[size:] << 4)
        return packed.reshape(shape)


CODECS.register("nibbles", summary="4-bit weights, two to a byte", source="compression/codebook.py")(Nibbles())
