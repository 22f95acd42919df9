"""Symbols <-> words of an ANS coder, under models that both sides learn from what has been coded.

No table is stored. Symbols come in groups; a group's model begins with the shares that symbols had in the groups
before, and is made anew from its own counts after 16, 32, 64, ... symbols, so that everything is coded in few
calls of the coder (``constriction``: asymmetric numeral systems, Duda 2009; 32-bit words, 64-bit state, 24-bit
probabilities). Within a block the model stands still; weights are integers, so that it is the same everywhere.
Long blocks of small alphabets are coded in pairs of symbols, which halves the decoder's steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from neuroprune.compression.npc.wire import Damaged

Counts = NDArray[np.int64]
Words = NDArray[np.uint32]

#: the first block of a group; each further one is as long as all before it
_FIRST = 16
#: from here on a model has learnt what there is to learn
_LAST = 1 << 15
#: weight of one symbol seen, of all symbols of earlier groups together, and of a symbol before any was seen
_SEEN, _EARLIER, _UNSEEN = 32, 4096, 16
#: symbols per call of the coder when decoding: four bytes of each stay in the processor's cache
_CHUNK = 1 << 14
#: symbols of a finished model are coded in pairs where its alphabet is no larger
_PAIRED = 40


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
        """From a very long block its beginning is enough."""
        self.counts += np.bincount(symbols[:_LAST], minlength=len(self.counts))


def blocks(count: int) -> Iterator[int]:
    """Lengths of the blocks of a group of ``count`` symbols; the model learns between them."""
    done = 0
    while done < count:
        length = min(done or _FIRST, count - done) if done < _LAST else count - done
        done += length
        yield length


def _after(shares: Counts, counts: Counts) -> Counts:
    """What a group leaves to the next one: its counts, and a quarter of what it was told itself."""
    found: Counts = shares // 4 + counts
    return found


Step = tuple[NDArray[Any], Counts]


class Learner:
    """What both sides know of one stream: how often each symbol of the alphabet has come."""

    def __init__(self, alphabet: int) -> None:
        self._shares = np.zeros(alphabet, np.int64)

    def steps(self, group: NDArray[Any]) -> Iterator[Step]:
        """What the coder codes of ``group``, call by call: symbols and their weights. A decoder fills the symbols
        in before it asks for the next step."""
        model, start = Model(self._shares), 0
        for length in blocks(len(group)):
            block = group[start : start + length]
            start += length
            yield block, model.weights()
            model.learn(block)
        self._shares = _after(self._shares, model.counts)


def _steps(alphabet: int, groups: Iterable[NDArray[Any]]) -> Iterator[Step]:
    learner = Learner(alphabet)
    for group in groups:
        yield from learner.steps(group)


def _in_pairs(length: int, alphabet: int) -> int:
    """How many symbols of a block are coded in pairs."""
    return length // 2 * 2 if length >= _LAST and alphabet <= _PAIRED else 0


def _paired(block: NDArray[Any], weights: Counts) -> list[Step]:
    """A long block of few symbols in pairs, and singly what is left over."""
    whole = _in_pairs(len(block), len(weights))
    if not whole:
        return [(block, weights)]
    pairs = block[:whole:2].astype(np.int32) * len(weights) + block[1:whole:2]
    return [(pairs, _products(weights)), (block[whole:], weights)]


def _products(weights: Counts) -> Counts:
    """Weights of all pairs, the first symbol the more significant. Their sum stays below 2^44."""
    return np.multiply.outer(weights, weights).ravel()


def encode(streams: Iterable[tuple[int, Sequence[NDArray[Any]]]]) -> Words:
    """``streams``: size of the alphabet (at least 2), and the groups of symbols in it. One run of words for all.

    The coder is a stack: what is decoded first is encoded last.
    """
    singles = [step for alphabet, groups in streams for step in _steps(alphabet, groups)]
    steps = [step for single in singles for step in _paired(*single)]
    coder = constriction.stream.stack.AnsCoder()
    for block, weights in reversed(steps):
        coder.encode_reverse(np.ascontiguousarray(block, np.int32), _categorical(weights))
    words: Words = coder.get_compressed()
    return words


def bits(alphabet: int, groups: Iterable[NDArray[Any]]) -> float:
    """What `encode` takes for one stream, but for rounding to whole words."""
    total = 0.0
    for block, weights in _steps(alphabet, groups):
        counts = np.bincount(block, minlength=alphabet)
        total += len(block) * np.log2(weights.sum()) - float(counts @ np.log2(weights))
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
        learner = Learner(alphabet)
        for size in sizes:
            symbols = np.empty(size, dtype)
            for block, weights in learner.steps(symbols):
                self._fill(block, weights)
            yield symbols

    def _fill(self, block: NDArray[Any], weights: Counts) -> None:
        whole = _in_pairs(len(block), len(weights))
        if whole:
            pairs, table = block[:whole].view(np.uint16), _pair_table(len(weights))
            for part, decoded in self._parts(pairs, _products(weights)):
                np.take(table, decoded, out=part, mode="clip")
        for part, decoded in self._parts(block[whole:], weights):
            part[:] = decoded

    def _parts(self, block: NDArray[Any], weights: Counts) -> Iterator[tuple[NDArray[Any], NDArray[np.int32]]]:
        """Pieces of ``block`` and the symbols that go there."""
        categorical = _categorical(weights)
        for start in range(0, len(block), _CHUNK):
            part = block[start : start + _CHUNK]
            yield part, self._coder.decode(categorical, len(part))

    def end(self) -> None:
        if not self._coder.is_empty():
            raise Damaged("coded symbols go on after the last one")


@functools.cache
def _pair_table(alphabet: int) -> NDArray[np.uint16]:
    """Two symbols of one byte each as the 16-bit number that they are in memory: one look-up gives both."""
    first, second = np.divmod(np.arange(alphabet**2), alphabet)
    return np.stack([first, second], axis=1).astype(np.uint8).view(np.uint16).ravel()


def _categorical(weights: Counts) -> Any:
    """Sums of integers below 2^53 are exact in float64, so that the model is the same on every machine."""
    return constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)
