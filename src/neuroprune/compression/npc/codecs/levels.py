"""Few distinct values: a table of them, and for each weight its place in the table through an entropy coder.

Where there are more than a handful of values (int8), the lowest bits of a place are all but random, and are stored
as they are: fewer symbols are learnt faster and decoded faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroprune.compression.npc import adaptive
from neuroprune.compression.npc._base import CODECS, Bits, Codec, Kind, Plain, array_of, unsigned
from neuroprune.compression.npc.classes import MOST, Classes, Grouping, classes_along
from neuroprune.compression.npc.wire import Damaged, Reader, Writer

#: distinct values at most; more of them are hardly worth a table
_MOST_VALUES = 4096
#: low bits that may be stored as they are
_LOW_BITS = (0, 1, 2, 4)
#: an alphabet of at most so many symbols is coded whole
_SMALL = 24
#: fewer low bits must save at least this share, because more of them decode faster
_WORTH_SLOWER = 0.004
_TABLE, _CENTRE = 1, 2  # bits of the flag byte; the index into _LOW_BITS stands above them


@dataclass(frozen=True)
class Alphabet:
    """From places in the table (levels, 0 to ``levels`` - 1) to symbols and low bits, and back.

    Without ``centre`` the symbol is the level without its ``low`` low bits. With it the level ``centre`` has a
    symbol of its own and no low bits, and the distance from it, less one, is what loses its low bits.
    """

    levels: int
    low: int = 0
    centre: int | None = None

    @property
    def below(self) -> int:
        """Symbols for the levels under the centre."""
        return -(-(self.centre or 0) >> self.low)

    @property
    def symbols(self) -> int:
        """At least 2, which is what the coder takes."""
        if self.centre is None:
            return max(2, ((self.levels - 1) >> self.low) + 1)
        above = self.levels - 1 - self.centre
        return max(2, self.below + 1 - (-above >> self.low))

    def symbol(self, levels: NDArray[Any]) -> NDArray[Any]:
        if self.centre is None:
            return levels >> self.low
        distance = levels.astype(np.int32) - self.centre
        steps = ((np.abs(distance) - 1) >> self.low) + 1
        found: NDArray[Any] = np.where(distance == 0, 0, np.sign(distance) * steps) + self.below
        return found

    def low_bits(self, levels: NDArray[Any]) -> NDArray[np.uint8]:
        """[number of weights that have some]"""
        flat = levels.ravel().astype(np.int32)
        if self.centre is not None:
            flat = np.abs(flat[flat != self.centre] - self.centre) - 1
        return (flat & ((1 << self.low) - 1)).astype(np.uint8)

    def level(self, symbols: NDArray[Any], low: NDArray[np.uint8]) -> NDArray[Any]:
        """The levels again. ``low``: as `low_bits` gave it. Levels out of range are left to the caller."""
        wide = symbols if self.levels <= 256 - (1 << self.low) else symbols.astype(np.int32)
        if self.centre is None:
            return (wide << self.low) | low.reshape(symbols.shape) if self.low else symbols
        starts, signs = self._starts()
        found: NDArray[Any] = starts[symbols]
        if self.low:
            where = np.flatnonzero(symbols.ravel() != self.below)
            found.ravel()[where] += signs[symbols.ravel()[where]] * low
        return found

    def _starts(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Per symbol: the level nearest to the centre that has it, and the way on from there."""
        steps = np.arange(self.symbols, dtype=np.int32) - self.below
        signs = np.sign(steps).astype(np.int32)
        away = ((np.abs(steps) - 1) << self.low) + 1
        return (self.centre or 0) + np.where(steps == 0, 0, signs * away).astype(np.int32), signs


@dataclass(frozen=True)
class _Plan:
    """How one tensor is coded, and what that costs in bits."""

    alphabet: Alphabet
    axes: dict[int, Classes]
    cost: float


class Levels(Codec):
    number = 2
    simple = True

    def encode(self, plain: Plain) -> bytes | None:
        found = _table(plain)
        if found is None:
            return None
        values, levels = found
        plan = _plan(levels, len(values), _nearest_to_zero(values, levels, plain.kind))
        writer = Writer()
        _write_head(writer, values, plain.kind, plan)
        for axis in range(levels.ndim):
            writer.byte(int(plan.axes[axis].max()) if axis in plan.axes else 0)
        words = _encode_symbols(plan, levels)
        writer.count(len(words))
        writer.bytes(words.astype("<u4").tobytes())
        writer.bytes(_packed(plan.alphabet.low_bits(levels), plan.alphabet.low))
        return writer.getvalue()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        values, alphabet = _read_head(reader, itemsize)
        highest = [reader.byte() for _ in shape]
        if any(top >= MOST for top in highest):
            raise Damaged(f"an axis has over {MOST} classes")
        words = array_of(reader.bytes(4 * reader.count(reader.left // 4)), 4)
        symbols = _decode_symbols(words, shape, highest, alphabet)
        apart = symbols.size if alphabet.centre is None else int((symbols != alphabet.below).sum())
        low = _unpacked(reader.bytes(-(-apart * alphabet.low // 8)), apart, alphabet.low)
        levels = alphabet.level(symbols, low)
        if levels.size and not 0 <= int(levels.min()) <= int(levels.max()) < len(values):
            raise Damaged("a weight has no value in its table")
        return values[levels].reshape(shape)


def _table(plain: Plain) -> tuple[Bits, NDArray[Any]] | None:
    """The values in order, bit patterns [k], and the place of each weight among them; None if there are too many."""
    keys = _keys(plain.bits, plain.kind)
    if keys.size < 2 or _too_many(keys):
        return None
    if keys.dtype.itemsize == 1:
        counts = np.bincount(keys.ravel(), minlength=256)
        distinct = np.flatnonzero(counts).astype(keys.dtype)
        places = np.zeros(256, np.uint8)
        places[distinct] = np.arange(len(distinct))
        levels = places[keys]
    else:
        distinct, levels = np.unique(keys, return_inverse=True)
        levels = levels.reshape(keys.shape).astype(np.uint16)
    if not 1 < len(distinct) <= _MOST_VALUES:
        return None
    low, high = int(distinct[0]), int(distinct[-1])
    if _is_range(high - low + 1, len(distinct), plain):
        levels = (keys - keys.dtype.type(low)).astype(np.uint16 if high - low > 255 else np.uint8)
        distinct = np.arange(low, high + 1).astype(keys.dtype)
    return _from_keys(distinct, plain.kind), levels


def _too_many(keys: Bits) -> bool:
    """A look at some of them spares sorting all."""
    return keys.size > 65536 and len(np.unique(keys.ravel()[: 1 << 15])) > _MOST_VALUES


def _is_range(span: int, distinct: int, plain: Plain) -> bool:
    """Whether a gapless range of integers costs less than naming the values."""
    return (
        plain.kind != "float" and span <= _MOST_VALUES and distinct * plain.itemsize > 12 and span < 2 * distinct
    )


def _keys(bits: Bits, kind: Kind) -> Bits:
    """Unsigned integers in the order of the numbers that the bits stand for."""
    if kind == "unsigned":
        return bits
    top = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    if kind == "signed":
        return bits ^ top
    return np.where(bits & top, ~bits, bits | top)


def _from_keys(keys: Bits, kind: Kind) -> Bits:
    if kind == "unsigned":
        return keys
    top = keys.dtype.type(1 << (8 * keys.dtype.itemsize - 1))
    if kind == "signed":
        return keys ^ top
    return np.where(keys & top, keys ^ top, ~keys)


def _nearest_to_zero(values: Bits, levels: NDArray[Any], kind: Kind) -> int:
    """The level around which the others lie: zero; where there are no negative numbers, the commonest."""
    if kind == "unsigned":
        return int(np.bincount(levels.ravel()).argmax())
    zero = int(_keys(np.zeros(1, values.dtype), kind)[0])
    return int(np.argmin([abs(int(key) - zero) for key in _keys(values, kind)]))


def _plan(levels: NDArray[Any], count: int, zero: int) -> _Plan:
    """The cheapest alphabet for ungrouped weights, then the cheapest grouping for it."""
    alphabets = [Alphabet(count)]
    if count > _SMALL:
        alphabets = [Alphabet(count, low, centre) for low, centre in product(_LOW_BITS, (None, zero))]
    plans = [_costed(alphabet, levels, {}) for alphabet in alphabets]
    least = min(plan.cost for plan in plans)
    near = [plan for plan in plans if plan.cost <= least * (1 + _WORTH_SLOWER)]
    best = min(near, key=lambda plan: (plan.alphabet.symbols, plan.cost))
    magnitudes = np.abs(levels.astype(np.float32) - zero)
    long = [axis for axis in range(levels.ndim) if levels.shape[axis] > 1]
    for per_octave in (1, 2, 3, 4):
        along = {axis: classes_along(magnitudes, axis, per_octave) for axis in long} if len(long) > 1 else {}
        for chosen in {(0,), (0, 1), tuple(range(levels.ndim))}:
            axes = {axis: along[axis] for axis in chosen if axis in along and along[axis].any()}
            best = min(best, _costed(best.alphabet, levels, axes), key=lambda plan: plan.cost)
    return best


def _costed(alphabet: Alphabet, levels: NDArray[Any], axes: dict[int, Classes]) -> _Plan:
    plan = _Plan(alphabet, axes, 0.0)
    low = alphabet.low * (levels.size if alphabet.centre is None else int((levels != alphabet.centre).sum()))
    return replace(plan, cost=low + sum(adaptive.bits(*stream) for stream in _streams(plan, levels)))


def _streams(plan: _Plan, levels: NDArray[Any]) -> list[tuple[int, list[NDArray[Any]]]]:
    """For the coder: the classes of each axis that has some, then the symbols, group by group."""
    grouping = Grouping.of(levels.shape, plan.axes)
    matrix = plan.alphabet.symbol(levels).reshape(len(grouping.rows), -1)
    heads = [(int(classes.max()) + 1, [classes]) for _, classes in sorted(plan.axes.items())]
    return [*heads, (plan.alphabet.symbols, grouping.split(matrix))]


def _encode_symbols(plan: _Plan, levels: NDArray[Any]) -> NDArray[np.uint32]:
    return adaptive.encode(_streams(plan, levels))


def _decode_symbols(
    words: NDArray[Any], shape: tuple[int, ...], highest: list[int], alphabet: Alphabet
) -> NDArray[Any]:
    decoder = adaptive.Decoder(words)
    axes = {axis: next(decoder.groups(top + 1, [shape[axis]])) for axis, top in enumerate(highest) if top}
    grouping = Grouping.of(shape, axes)
    dtype = np.uint8 if alphabet.symbols <= 256 else np.uint16
    matrix = grouping.join(decoder.groups(alphabet.symbols, map(int, grouping.sizes())), dtype)
    decoder.end()
    return matrix


def _write_head(writer: Writer, values: Bits, kind: Kind, plan: _Plan) -> None:
    """Flags, the number of values, the values (or the first, where each is the one before plus one), the centre."""
    alphabet = plan.alphabet
    steps = np.diff(values)
    is_table = bool((steps != 1).any())
    writer.byte(is_table * _TABLE + (alphabet.centre is not None) * _CENTRE + (_LOW_BITS.index(alphabet.low) << 2))
    writer.count(len(values))
    writer.bytes(values.tobytes() if is_table else values[:1].tobytes())
    if alphabet.centre is not None:
        writer.count(alphabet.centre)


def _read_head(reader: Reader, itemsize: int) -> tuple[Bits, Alphabet]:
    flags = reader.byte()
    if flags >> 4:
        raise Damaged("unknown flags of a table of values")
    count = reader.count(_MOST_VALUES)
    if count < 2:
        raise Damaged("a table of values has fewer than two")
    if flags & _TABLE:
        values = array_of(reader.bytes(count * itemsize), itemsize)
    else:
        first = array_of(reader.bytes(itemsize), itemsize)
        values = first + np.arange(count).astype(unsigned(itemsize))  # wraps around, as -1 does to 0
    centre = reader.count(count - 1) if flags & _CENTRE else None
    return values, Alphabet(count, _LOW_BITS[flags >> 2], centre)


def _packed(low: NDArray[np.uint8], width: int) -> bytes:
    """``width`` bits each, the first in the lowest bits of the first byte."""
    if not width:
        return b""
    per_byte = 8 // width
    padded = np.zeros(-(-low.size // per_byte) * per_byte, np.uint8)
    padded[: low.size] = low
    packed = np.zeros(len(padded) // per_byte, np.uint8)
    for place in range(per_byte):
        packed |= padded[place::per_byte] << (place * width)
    return packed.tobytes()


def _unpacked(data: memoryview, count: int, width: int) -> NDArray[np.uint8]:
    if not width:
        return np.empty(0, np.uint8)
    packed, per_byte = array_of(data, 1), 8 // width
    low = np.empty((len(packed), per_byte), np.uint8)
    for place in range(per_byte):
        low[:, place] = packed >> (place * width)
    low &= (1 << width) - 1
    return low.ravel()[:count]


CODECS.register(
    "levels",
    summary="a table of values and entropy-coded places in it, grouped by rows, columns and kernel positions",
    source="Han et al. 2016, Deep compression; Duda 2009",
)(Levels())
