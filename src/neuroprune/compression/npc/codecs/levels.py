"""Few distinct values: a table of them, and for each weight its place in the table through an entropy coder.

Where there are more than a handful of values (int8), the lowest bits of a place are all but random, and are stored
as they are: fewer symbols are learnt faster and decoded faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroprune.compression.npc import adaptive
from neuroprune.compression.npc._base import CODECS, Bits, Codec, Kind, Plain, array_of, unsigned
from neuroprune.compression.npc.classes import MOST, Classes, Grouping, classes_along, may_have_classes
from neuroprune.compression.npc.wire import Damaged, Reader, Writer

#: distinct values at most; more of them are hardly worth a table
_MOST_VALUES = 4096
#: low bits that may be stored as they are
_LOW_BITS = (0, 1, 2, 3, 4)
#: an alphabet of at most so many symbols is coded whole
_SMALL = 24
#: in a tensor of so many weights, so much more may be taken by an alphabet of fewer symbols, which decodes faster
_LARGE, _FOR_SPEED = 1 << 17, 0.01
_TABLE, _CENTRE = 1, 2  # bits of the flag byte; the number of low bits stands above them


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
        """The levels again. ``low``: as `low_bits` gave it. Damaged bits may give levels out of range."""
        dtype = np.uint8 if self.levels <= 256 else np.uint16
        if self.centre is None:
            wide: NDArray[Any] = symbols.astype(dtype, copy=False)
            return np.left_shift(wide, self.low) | low.reshape(symbols.shape) if self.low else wide
        steps = np.arange(self.symbols) - self.below
        nearest = self.centre + np.sign(steps) * (((np.abs(steps) - 1) << self.low) + 1)
        found = _looked_up(nearest.astype(dtype), symbols)
        if self.low:
            found = found.copy().ravel()
            where = np.flatnonzero(symbols.ravel() != self.below)
            away = np.where(symbols.ravel()[where] > self.below, low, -low.astype(np.int16))
            found[where] += away.astype(dtype)
        return found.reshape(symbols.shape)


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
        tolerance = _FOR_SPEED if plain.fast and levels.size >= _LARGE else 0.0
        plan = _plan(levels, len(values), _nearest_to_zero(values, levels, plain.kind), tolerance)
        writer = Writer()
        _write_head(writer, values, plan.alphabet)
        for axis in range(levels.ndim):
            writer.byte(int(plan.axes[axis].max()) if axis in plan.axes else 0)
        words = adaptive.encode(_streams(plan, levels))
        writer.count(len(words))
        writer.add(words.astype("<u4").tobytes())
        writer.add(_packed(plan.alphabet.low_bits(levels), plan.alphabet.low))
        return writer.getvalue()

    def decode(self, reader: Reader, shape: tuple[int, ...], itemsize: int) -> Bits:
        values, alphabet = _read_head(reader, itemsize)
        highest = [reader.byte() for _ in shape]
        if any(top >= MOST for top in highest) or (any(highest) and not may_have_classes(shape)):
            raise Damaged("an axis has too many classes")
        words = array_of(reader.take(4 * reader.count(reader.left // 4)), 4)
        symbols = _decode_symbols(words, shape, highest, alphabet)
        apart = symbols.size if alphabet.centre is None else int((symbols != alphabet.below).sum())
        low = _unpacked(reader, apart, alphabet.low)
        levels = alphabet.level(symbols, low)
        if levels.size and not 0 <= int(levels.min()) <= int(levels.max()) < len(values):
            raise Damaged("a weight has no value in its table")
        return _looked_up(values, levels).reshape(shape)


def _table(plain: Plain) -> tuple[Bits, NDArray[Any]] | None:
    """The values in order, as bits [k], and the place of each weight among them; None if there are too many."""
    keys = _keys(plain.bits, plain.kind)
    levels: NDArray[Any]
    if keys.size < 2 or _too_many(keys):
        return None
    if keys.dtype.itemsize == 1:
        counts = np.bincount(keys.ravel(), minlength=256)
        distinct = np.flatnonzero(counts).astype(keys.dtype)
        places = np.zeros(256, np.uint16)
        places[distinct] = np.arange(len(distinct))
        levels = places[keys]
    else:
        distinct, levels = np.unique(keys, return_inverse=True)
        levels = levels.reshape(keys.shape)
    if not 1 < len(distinct) <= _MOST_VALUES:
        return None
    low, high = int(distinct[0]), int(distinct[-1])
    if _is_range(high - low + 1, len(distinct), plain):
        levels = keys - keys.dtype.type(low)
        distinct = np.arange(low, high + 1).astype(keys.dtype)
    return _from_keys(distinct, plain.kind), levels.astype(np.uint16)


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
    keys: Bits = bits ^ top if kind == "signed" else np.where(bits & top, ~bits, bits | top)
    return keys


def _from_keys(keys: Bits, kind: Kind) -> Bits:
    if kind == "unsigned":
        return keys
    top = keys.dtype.type(1 << (8 * keys.dtype.itemsize - 1))
    bits: Bits = keys ^ top if kind == "signed" else np.where(keys & top, keys ^ top, ~keys)
    return bits


def _nearest_to_zero(values: Bits, levels: NDArray[Any], kind: Kind) -> int:
    """The level around which the others lie: zero; where there are no negative numbers, the commonest."""
    if kind == "unsigned":
        return int(np.bincount(levels.ravel()).argmax())
    zero = int(_keys(np.zeros(1, values.dtype), kind)[0])
    return int(np.argmin([abs(int(key) - zero) for key in _keys(values, kind)]))


def _plan(levels: NDArray[Any], count: int, zero: int, tolerance: float) -> _Plan:
    """The cheapest alphabet for ungrouped weights, the cheapest grouping for it, and an alphabet for that.

    ``tolerance``: so much more may be taken by an alphabet of fewer symbols.
    """
    best = _best_alphabet(levels, count, zero, tolerance, {})
    for axes in _groupings(levels, zero):
        best = min(best, _costed(best.alphabet, levels, axes), key=lambda plan: plan.cost)
    return _best_alphabet(levels, count, zero, tolerance, best.axes) if best.axes else best


def _best_alphabet(
    levels: NDArray[Any], count: int, zero: int, tolerance: float, axes: dict[int, Classes]
) -> _Plan:
    alphabets = [Alphabet(count)]
    if count > _SMALL:
        alphabets = [Alphabet(count, low, centre) for low, centre in product(_LOW_BITS, (None, zero))]
    plans = [_costed(alphabet, levels, axes) for alphabet in alphabets]
    most = min(plan.cost for plan in plans) * (1 + tolerance)
    return min((plan for plan in plans if plan.cost <= most), key=lambda plan: (plan.alphabet.symbols, plan.cost))


def _groupings(levels: NDArray[Any], zero: int) -> Iterator[dict[int, Classes]]:
    """Rows; rows and input channels; all axes: each in coarse and in fine classes."""
    magnitudes, seen = np.abs(levels.astype(np.float32) - zero), set[tuple[tuple[int, bytes], ...]]()
    for per_octave in (1, 2, 3, 4) if may_have_classes(levels.shape) else ():
        along = [classes_along(magnitudes, axis, per_octave) for axis in range(levels.ndim)]
        for chosen in sorted({(0,), (0, 1), tuple(range(levels.ndim))}):
            axes = {axis: along[axis] for axis in chosen if along[axis].any()}
            key = tuple((axis, classes.tobytes()) for axis, classes in axes.items())
            if axes and key not in seen:  # without any, `_plan` has begun
                seen.add(key)
                yield axes


def _costed(alphabet: Alphabet, levels: NDArray[Any], axes: dict[int, Classes]) -> _Plan:
    plan = _Plan(alphabet, axes, 0.0)
    low = alphabet.low * (levels.size if alphabet.centre is None else int((levels != alphabet.centre).sum()))
    return replace(plan, cost=low + sum(adaptive.bits(*stream) for stream in _streams(plan, levels)))


def _streams(plan: _Plan, levels: NDArray[Any]) -> list[tuple[int, list[NDArray[Any]]]]:
    """For the coder: the classes of each axis that has some, then the symbols, group by group."""
    symbols = plan.alphabet.symbol(levels)
    if not plan.axes:
        return [(plan.alphabet.symbols, [symbols.ravel()])]
    groups = Grouping.of(levels.shape, plan.axes).split(symbols.reshape(len(levels), -1))
    heads = [(int(classes.max()) + 1, [classes]) for _, classes in sorted(plan.axes.items())]
    return [*heads, (plan.alphabet.symbols, groups)]


def _decode_symbols(
    words: NDArray[Any], shape: tuple[int, ...], highest: list[int], alphabet: Alphabet
) -> NDArray[Any]:
    decoder = adaptive.Decoder(words)
    axes = {axis: next(decoder.groups(top + 1, [shape[axis]])) for axis, top in enumerate(highest) if top}
    if axes:
        grouping = Grouping.of(shape, axes)
        matrix = grouping.join(decoder.groups(alphabet.symbols, map(int, grouping.sizes())))
    else:
        matrix = next(decoder.groups(alphabet.symbols, [math.prod(shape)]))
    decoder.end()
    return matrix


def _write_head(writer: Writer, values: Bits, alphabet: Alphabet) -> None:
    """Flags, the number of values, the values (only the first of a range of integers), the centre."""
    is_table = bool((np.diff(values) != 1).any())
    writer.byte(is_table * _TABLE + (alphabet.centre is not None) * _CENTRE + (alphabet.low << 2))
    writer.count(len(values))
    writer.add(values.tobytes() if is_table else values[:1].tobytes())
    if alphabet.centre is not None:
        writer.count(alphabet.centre)


def _read_head(reader: Reader, itemsize: int) -> tuple[Bits, Alphabet]:
    flags = reader.byte()
    if flags >> 2 not in _LOW_BITS:
        raise Damaged("unknown flags of a table of values")
    count = reader.count(_MOST_VALUES)
    if count < 2:
        raise Damaged("a table of values has fewer than two")
    if flags & _TABLE:
        values = array_of(reader.take(count * itemsize), itemsize)
    else:
        first = array_of(reader.take(itemsize), itemsize)
        values = first + np.arange(count).astype(unsigned(itemsize))  # wraps around, as -1 does to 0
    centre = reader.count(count - 1) if flags & _CENTRE else None
    return values, Alphabet(count, flags >> 2, centre)


def _packed(low: NDArray[np.uint8], width: int) -> bytes:
    """Bit plane by bit plane, the lowest first, eight weights to a byte, the first in its lowest bit."""
    return b"".join(np.packbits(low >> place & 1, bitorder="little").tobytes() for place in range(width))


def _unpacked(reader: Reader, count: int, width: int) -> NDArray[np.uint8]:
    low = np.zeros(count if width else 0, np.uint8)
    for place in range(width):
        plane = array_of(reader.take(-(-count // 8)), 1)
        low |= np.unpackbits(plane, count=count, bitorder="little") << place
    return low


def _looked_up(values: Bits, levels: NDArray[Any]) -> Bits:
    """``values[levels]``. For bytes, Python's own translation is faster."""
    if values.dtype.itemsize > 1 or levels.dtype.itemsize > 1 or not levels.size:
        found: Bits = values[levels]
        return found
    table = values.tobytes().ljust(256, b"\0")
    return array_of(levels.tobytes().translate(table), 1).reshape(levels.shape)


CODECS.register(
    "levels",
    summary="a table of values and entropy-coded places in it, grouped by rows, columns and kernel positions",
    source="Han et al. 2016, Deep compression; Duda 2009",
)(Levels())
