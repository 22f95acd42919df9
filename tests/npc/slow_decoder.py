"""docs/format.md, word for word in plain Python: no numpy, no native coder, nothing of the product's."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from math import prod
from typing import Any

SIZES = [1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1]


class Input:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        assert self.at + length <= len(self.data)
        self.at += length
        return self.data[self.at - length : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def count(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def rebuild(data: bytes) -> bytes:
    file = Input(data)
    assert file.take(8) == bytes.fromhex("894E50430D0A1A0A")
    assert file.byte() == 1
    stored, plain, crc = file.number(4), file.number(4), file.number(4)
    header = lzma.decompress(
        file.take(stored), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22}]
    )
    assert len(header) == plain
    assert zlib.crc32(header) == crc
    directory = Input(header)
    directory.byte()
    digest = directory.take(32)
    entries = []
    for _ in range(directory.count()):
        entry: dict[str, Any] = {
            "name": directory.take(directory.count()).decode(),
            "size": SIZES[directory.byte()],
        }
        entry["shape"] = [directory.count() for _ in range(directory.byte())]
        entry["gap"], entry["codec"], entry["stored"] = directory.count(), directory.byte(), directory.count()
        entry["crc"] = directory.number(4)
        entries.append(entry)
    skeleton, rebuilt = Input(directory.rest()), b""
    for entry in entries:
        rebuilt += skeleton.take(entry["gap"])
        payload = Input(file.take(entry["stored"]))
        elements = decode(entry["codec"], payload, entry["shape"], entry["size"])
        assert payload.at == len(payload.data)
        tensor = b"".join(element.to_bytes(entry["size"], "little") for element in elements)
        assert zlib.crc32(tensor) == entry["crc"]
        rebuilt += tensor
    rebuilt += skeleton.rest()
    assert file.number(4) == zlib.crc32(data[:-4])
    assert file.at == len(data)
    assert hashlib.sha256(rebuilt).digest() == digest
    return rebuilt


def decode(codec: int, payload: Input, shape: list[int], size: int) -> list[int]:
    return [raw, constant, levels, planes, nibbles, sparse][codec](payload, shape, size)


def part(payload: Input, shape: list[int], size: int) -> list[int]:
    codec = payload.byte()
    assert codec in (0, 1, 2)
    inner = Input(payload.take(payload.count()))
    elements = decode(codec, inner, shape, size)
    assert inner.at == len(inner.data)
    return elements


def raw(payload: Input, shape: list[int], size: int) -> list[int]:
    return [payload.number(size) for _ in range(prod(shape))]


def constant(payload: Input, shape: list[int], size: int) -> list[int]:
    return [payload.number(size)] * prod(shape)


def planes(payload: Input, shape: list[int], size: int) -> list[int]:
    rotated = payload.byte()
    columns = [part(payload, shape, 1) for _ in range(size)]
    elements = [sum(byte << 8 * place for place, byte in enumerate(row)) for row in zip(*columns, strict=True)]
    return [x >> 1 | (x & 1) << (8 * size - 1) for x in elements] if rotated else elements


def nibbles(payload: Input, shape: list[int], size: int) -> list[int]:
    inner = [payload.count() for _ in range(payload.count())]
    n = prod(shape)
    v = part(payload, inner, 1)
    v += [0] * (2 * n - len(v))
    return [v[i] | v[n + i] << 4 for i in range(n)]


def sparse(payload: Input, shape: list[int], size: int) -> list[int]:
    elements = [payload.number(size)] * prod(shape)
    distances = part(payload, [payload.count()], 1)
    values = iter(part(payload, [sum(d != 255 for d in distances)], size))
    position = 0
    for distance in distances:
        position += distance
        if distance != 255:
            elements[position] = next(values)
            position += 1
    return elements


def levels(payload: Input, shape: list[int], size: int) -> list[int]:
    flags, k = payload.byte(), payload.count()
    b = flags >> 2
    if flags & 1:
        values = [payload.number(size) for _ in range(k)]
    else:
        first = payload.number(size)
        values = [(first + i) % 256**size for i in range(k)]
    z = payload.count() if flags & 2 else None
    highest = [payload.byte() for _ in shape]
    coder = Coder([payload.number(4) for _ in range(payload.count())])
    under = 0 if z is None else (z + 2**b - 1) >> b
    above = (k - 1) >> b if z is None else (k - 1 - z + 2**b - 1) >> b
    alphabet = max(2, under + 1 + above)
    symbols = grouped(coder, shape, highest, alphabet)
    apart = [i for i, symbol in enumerate(symbols) if z is None or symbol != under]
    low = [0] * len(symbols)
    for place in range(b):
        plane = payload.take((len(apart) + 7) // 8)
        for j, i in enumerate(apart):
            low[i] |= (plane[j // 8] >> j % 8 & 1) << place
    found = []
    for symbol, bits in zip(symbols, low, strict=True):
        step = symbol - under
        if z is None:
            level = symbol << b | bits
        elif step == 0:
            level = z
        else:
            level = z + (1 if step > 0 else -1) * (((abs(step) - 1) << b) + 1 + bits)
        found.append(values[level])
    return found


def grouped(coder: Coder, shape: list[int], highest: list[int], alphabet: int) -> list[int]:
    assert not any(highest) or (shape[0] >= 8 and prod(shape[1:]) >= 8)
    classes = [[0] * length for length in shape]
    for axis, h in enumerate(highest):
        if h:
            classes[axis] = coder.stream(h + 1, [shape[axis]])[0]
    rows = classes[0] if shape else [0]
    columns = [0]
    for axis in range(1, len(shape)):
        columns = [c + d for c in columns for d in classes[axis]]
    last = max(rows, default=0) + max(columns, default=0)
    places: list[list[int]] = [[] for _ in range(last + 1)]
    for group in range(last + 1):
        for row_class in range(group + 1):
            for r, row in enumerate(rows):
                if row == row_class:
                    places[group] += [
                        r * len(columns) + c for c, column in enumerate(columns) if row + column == group
                    ]
    symbols = [0] * (len(rows) * len(columns))
    for where, decoded in zip(places, coder.stream(alphabet, [len(p) for p in places]), strict=True):
        for place, symbol in zip(where, decoded, strict=True):
            symbols[place] = symbol
    assert coder.state == 0
    assert not coder.words
    return symbols


class Coder:
    def __init__(self, words: list[int]) -> None:
        assert not words or words[-1] != 0
        self.words, self.state = words, 0
        while self.words and self.state < 2**32:
            self.state = self.state << 32 | self.words.pop()

    def symbols(self, weights: list[int], length: int) -> list[int]:
        left, total = [], 0
        scale = float(2**24 - len(weights)) / float(sum(weights))
        for i, weight in enumerate(weights):
            left.append(int(total * scale) + i)
            total += weight
        left.append(2**24)
        found = []
        for _ in range(length):
            q = self.state % 2**24
            i = next(i for i in range(len(weights)) if left[i] <= q < left[i + 1])
            self.state = (self.state >> 24) * (left[i + 1] - left[i]) + q - left[i]
            if self.state < 2**32 and self.words:
                self.state = self.state << 32 | self.words.pop()
            found.append(i)
        return found

    def stream(self, alphabet: int, sizes: list[int]) -> list[list[int]]:
        share, groups = [0] * alphabet, []
        for size in sizes:
            count, total, group = [0] * alphabet, sum(share), []
            prior = [1 + s * 4096 // total if total else 16 for s in share]
            while len(group) < size:
                length = size - len(group)
                if len(group) < 32768:
                    length = min(len(group) or 16, length)
                weight = [32 * c + p for c, p in zip(count, prior, strict=True)]
                block = self.block(weight, length)
                for symbol in block[:32768]:
                    count[symbol] += 1
                group += block
            share = [s // 4 + c for s, c in zip(share, count, strict=True)]
            groups.append(group)
        return groups

    def block(self, weight: list[int], length: int) -> list[int]:
        if length < 32768 or len(weight) > 40:
            return self.symbols(weight, length)
        pairs = self.symbols([a * b for a in weight for b in weight], length // 2)
        found = [symbol for pair in pairs for symbol in divmod(pair, len(weight))]
        return found + self.symbols(weight, length % 2)
