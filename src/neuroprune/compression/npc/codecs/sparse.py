"""Very few values differ from the commonest one: how far it is to each of them, and what they are."""

from __future__ import annotations

import math

import numpy as np

from neuroprune.compression.npc._base import (
    CODECS,
    Bits,
    Codec,
    Plain,
    array_of,
    read_part,
    unsigned,
    write_part,
)
from neuroprune.compression.npc.wire import Damaged, Reader, Writer

#: with more than one in so many the entropy coder's zero symbol is cheaper than a distance
_FEWEST_APART = 16
_GAP = 255


class Sparse(Codec):
    """Distances are bytes; 255 means 255 further and no value there."""

    number = 5

    def encode(self, plain: Plain) -> bytes | None:
        flat = plain.bits.ravel()
        if not flat.size:
            return None
        common = _commonest(flat)
        where = np.flatnonzero(flat != common)
        if not where.size or where.size > flat.size // _FEWEST_APART:
            return None
        gaps = np.diff(where, prepend=-1) - 1
        steps = gaps // _GAP
        stored = np.full(where.size + int(steps.sum()), _GAP, np.uint8)
        stored[np.cumsum(steps + 1) - 1] = gaps % _GAP
        writer = Writer()
        writer.add(common.tobytes())
        writer.count(stored.size)
        write_part(writer, Plain(stored, "unsigned", None, plain.fast))
        write_part(writer, Plain(flat[where], plain.kind, None, plain.fast))
        return writer.getvalue()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        size = math.prod(shape)
        common = array_of(reader.take(itemsize), itemsize)[0]
        stored = read_part(reader, (reader.count(size // _FEWEST_APART + size // _GAP),), 1)
        ends = np.cumsum(np.where(stored == _GAP, _GAP, stored.astype(np.int64) + 1)) - 1
        where = ends[stored != _GAP]
        if where.size and where[-1] >= size:
            raise Damaged("a value lies beyond the end of its tensor")
        bits = np.full(size, common, dtype=unsigned(itemsize))
        bits[where] = read_part(reader, (where.size,), itemsize)
        return bits.reshape(shape)


def _commonest(flat: Bits) -> Bits:
    """Of a sample where there are many: it only has to be right where one value is far commoner than others."""
    values, counts = np.unique(flat[:: max(1, flat.size // 65536)], return_counts=True)
    common: Bits = values[counts.argmax()]
    return common


CODECS.register("sparse", summary="positions and values of the few that differ from the commonest value")(Sparse())
