"""Symbols <-> words of an ANS coder, under models that both sides learn from what has been coded.

No table is stored. Symbols come in groups; a group's model begins with the shares that symbols had in the groups
before, and is made anew from its own counts after 64, 128, 256, ... symbols, so that everything is coded in few
calls of the coder (``constriction``: asymmetric numeral systems, Duda 2009; 32-bit words, 64-bit state, 24-bit
probabilities). Within a block the model stands still; weights are integers, so that it is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from neuroprune.compression.npc.wire import Damaged

Counts = NDArray[np.int64]
Words = NDArray[np.uint32]

#: the first block of a group; each further one is as long as all before it
_FIRST = 64
#: from here on a model has learnt what there is to learn
_LAST = 1 << 15
#: weight of one symbol seen, of all symbols of earlier groups together, and of a symbol before any was seen
_SEEN, _EARLIER, _UNSEEN = 32, 1024, 16
#: symbols per call of the coder, which gives four bytes for each
_CHUNK = 1 << 18


class Model:
    """Counts of the symbols of one group over what the groups before it taught (``shares``: counts, or zeros)."""

    def __init__(self, shares: Counts) -> None:
        total = int(shares.sum())
        prior = np.full(len(shares), 0 if total else _UNSEEN, np.int64)
        if total:
            prior += 1 + shares * _EARLIER // total
        self._prior, self.counts = prior, np.zeros_like(shares)

    def weights(self) -> Counts:
        found: Counts = self.counts * _SEEN + self._prior
        return found

    def learn(self, symbols: NDArray[Any]) -> None:
        self.counts += np.bincount(symbols, minlength=len(self.counts))


def blocks(count: int) -> Iterator[tuple[int, bool]]:
    """Lengths of the blocks of a group of ``count`` symbols, and whether the model learns from the block."""
    done = 0
    while done < count and done < _LAST:
        length = min(done or _FIRST, count - done)
        done += length
        yield length, True
    while done < count:
        length = min(_CHUNK, count - done)
        done += length
        yield length, False


def _after(shares: Counts, counts: Counts) -> Counts:
    """What a group leaves to the next one: its counts, and a quarter of what it was told itself."""
    found: Counts = shares // 4 + counts
    return found


def encode(streams: Iterable[tuple[int, Sequence[NDArray[Any]]]]) -> Words:
    """``streams``: size of the alphabet (at least 2), and the groups of symbols in it. One run of words for all.

    The coder is a stack: what is decoded first is encoded last.
    """
    steps = []
    for alphabet, groups in streams:
        shares = np.zeros(alphabet, np.int64)
        for group in groups:
            model, start = Model(shares), 0
            for length, learns in blocks(len(group)):
                block = group[start : start + length]
                steps.append((block, model.weights()))
                start += length
                if learns:
                    model.learn(block)
            shares = _after(shares, model.counts)
    coder = constriction.stream.stack.AnsCoder()
    for block, weights in reversed(steps):
        coder.encode_reverse(np.ascontiguousarray(block, np.int32), _categorical(weights))
    words: Words = coder.get_compressed()
    return words


def bits(alphabet: int, groups: Iterable[NDArray[Any]]) -> float:
    """What `encode` takes for one stream, but for rounding to whole words."""
    total, shares = 0.0, np.zeros(alphabet, np.int64)
    for group in groups:
        model, start = Model(shares), 0
        for length, learns in blocks(len(group)):
            counts = np.bincount(group[start : start + length], minlength=alphabet)
            weights = model.weights()
            total += length * np.log2(weights.sum()) - float(counts @ np.log2(weights))
            start += length
            if learns:
                model.counts += counts
        shares = _after(shares, model.counts)
    return total


class Decoder:
    """Takes the streams out again, in the order in which `encode` was given them. Raises `Damaged`."""

    def __init__(self, words: Words) -> None:
        try:
            self._coder = constriction.stream.stack.AnsCoder(words)
        except ValueError as error:  # the last word is zero
            raise Damaged("coded symbols end in a zero word") from error

    def groups(self, alphabet: int, sizes: Iterable[int]) -> Iterator[NDArray[Any]]:
        """The groups of one stream; ``sizes``: how many symbols each has. The narrowest unsigned type."""
        dtype = np.uint8 if alphabet <= 256 else np.uint16
        shares = np.zeros(alphabet, np.int64)
        for size in sizes:
            symbols = np.empty(size, dtype)
            model, start = Model(shares), 0
            frozen = None
            for length, learns in blocks(size):
                if learns or frozen is None:
                    categorical = _categorical(model.weights())
                    frozen = None if learns else categorical
                block = self._coder.decode(frozen or categorical, length)
                symbols[start : start + length] = block
                start += length
                if learns:
                    model.learn(block)
            shares = _after(shares, model.counts)
            yield symbols

    def end(self) -> None:
        if not self._coder.is_empty():
            raise Damaged("coded symbols go on after the last one")


def _categorical(weights: Counts) -> Any:
    """Sums of integers below 2^53 are exact in float64, so that the model is the same on every machine."""
    return constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)
