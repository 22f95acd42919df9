"""One value everywhere, or no value at all."""

from __future__ import annotations

import numpy as np

from neuroprune.compression.npc._base import CODECS, Bits, Codec, Plain, array_of, unsigned
from neuroprune.compression.npc.wire import Reader


class Constant(Codec):
    number = 1
    simple = True

    def encode(self, plain: Plain) -> bytes | None:
        flat = plain.bits.ravel()
        if flat.size == 0:
            return bytes(plain.itemsize)
        return flat[:1].tobytes() if (flat == flat[0]).all() else None

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        value = array_of(reader.take(itemsize), itemsize)[0]
        return np.full(shape, value, dtype=unsigned(itemsize))


CODECS.register("constant", summary="one value everywhere")(Constant())
