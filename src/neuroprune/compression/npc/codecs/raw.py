"""The bytes as they are: for what has no pattern."""

from __future__ import annotations

import math

from neuroprune.compression.npc._base import CODECS, Bits, Codec, Plain, array_of
from neuroprune.compression.npc.wire import Reader


class Raw(Codec):
    number = 0
    simple = True

    def encode(self, plain: Plain) -> bytes:
        return plain.bits.tobytes()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        return array_of(reader.take(math.prod(shape) * itemsize), itemsize).reshape(shape)


CODECS.register("raw", summary="the bytes as they are")(Raw())
