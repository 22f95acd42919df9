"""Other ways to code integer weights: gzip, zstd, a Huffman coder per tensor, and the entropy that bounds it.

nncodec (ISO/IEC 15938-17) wants numpy < 2, so it lives in an environment of its own and is called as a process:
`nncodec_child.py`.
"""

from __future__ import annotations

import heapq
import json
import math
import subprocess
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


def gzip_bytes(tensors: Tensors) -> int:
    """All tensors one after another, deflate at its best level."""
    return len(zlib.compress(_joined(tensors), 9, 31))


def zstd_bytes(tensors: Tensors) -> int:
    """At its highest level that needs no special settings."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=19).compress(_joined(tensors)))


def _joined(tensors: Tensors) -> bytes:
    return b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())


def huffman_bytes(tensors: Tensors) -> int:
    """A canonical Huffman code per tensor. Its table: lowest and highest value in 2 bytes each, then the length of
    every code between them in 5 bits (0: does not occur)."""
    return sum(_huffman(tensor.ravel().astype(np.int64)) for tensor in tensors.values())


def _huffman(values: np.ndarray) -> int:
    counts = np.bincount(values - values.min())
    used = counts[counts > 0]
    lengths = code_lengths(used.tolist())
    bits = 5 * len(counts) + sum(count * length for count, length in zip(used.tolist(), lengths, strict=True))
    return 4 + math.ceil(bits / 8)


def code_lengths(counts: list[int]) -> list[int]:
    """Bits of each symbol's Huffman code; a single symbol needs one bit."""
    if len(counts) == 1:
        return [1]
    lengths = [0] * len(counts)
    heap = [(count, number, [number]) for number, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, number, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (first + second, number, left + right))
    return lengths


def entropy_bytes(tensors: Tensors) -> float:
    """Of the values of each tensor alone, without any table: what no coder of independent symbols goes under."""
    total = 0.0
    for tensor in tensors.values():
        counts = np.bincount(tensor.ravel().astype(np.int64) - int(tensor.min()))
        shares = counts[counts > 0] / tensor.size
        total -= float((shares * np.log2(shares)).sum()) * tensor.size / 8
    return total


def nncodec(subjects: Sequence[Tensors], python: Path) -> list[dict[str, Any]]:
    """Per subject: ``bytes`` of the smaller of two settings, CPU seconds each way, version. One process for all,
    because importing its frameworks takes longer than coding; it checks that what it decodes is what went in."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npz" for number in range(len(subjects))]
        for path, tensors in zip(paths, subjects, strict=True):
            np.savez(path, **{name: tensor.astype(np.int32) for name, tensor in tensors.items()})
        command = [str(python), str(Path(__file__).with_name("nncodec_child.py")), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
