"""The file around the coded tensors: header (directory and skeleton), payloads, checksums. See docs/format.md.

Nothing is allocated that was not first checked against the size of the file and a limit.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.compression.npc import codecs  # noqa: F401  files the codecs
from neuroprune.compression.npc._base import MAX_RANK, Bits, codec_of
from neuroprune.compression.npc.spans import DTYPES, Format
from neuroprune.compression.npc.wire import Damaged, OverLimit, Reader, Writer

MAGIC = b"\x89NPC\r\n\x1a\n"
VERSION = 1
_FORMATS: tuple[Format, ...] = ("safetensors", "onnx")
#: plain header at most: names and skeleton of a network have never come near it
_HEADER_LIMIT = 1 << 28
#: LZMA2 expands a byte to about 7,000 at most
_LZMA_EXPANSION = 8192
_WRITING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 22, "pb": 0}]
READING = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22}]
#: magic, version, three numbers of 4 bytes
LEAD = len(MAGIC) + 1 + 12


@dataclass(frozen=True)
class Entry:
    """One tensor of the directory. ``gap``: bytes of the skeleton before its bytes; ``stored``: of its payload."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    gap: int
    crc: int
    codec: int
    stored: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    """What the rebuilt file is: its format, its SHA-256, its tensors, and all its other bytes."""

    format: Format
    sha256: bytes
    entries: tuple[Entry, ...]
    skeleton: bytes

    @property
    def size(self) -> int:
        """Bytes of the rebuilt file."""
        return len(self.skeleton) + sum(entry.size for entry in self.entries)


def write_header(header: Header) -> bytes:
    """Magic, version, sizes, checksum, and the header compressed. Raises UserError for one that nobody reads."""
    writer = Writer()
    writer.byte(_FORMATS.index(header.format))
    writer.add(header.sha256)
    writer.count(len(header.entries))
    for entry in header.entries:
        name = entry.name.encode()
        writer.count(len(name))
        writer.add(name)
        writer.byte(entry.dtype)
        writer.byte(len(entry.shape))
        for length in entry.shape:
            writer.count(length)
        writer.count(entry.gap)
        writer.byte(entry.codec)
        writer.count(entry.stored)
        writer.add(entry.crc.to_bytes(4, "little"))
    writer.add(header.skeleton)
    plain = writer.getvalue()
    if len(plain) > _HEADER_LIMIT:
        raise UserError(
            "too much of the file lies outside its large tensors",
            value=f"{len(plain):,} bytes, and {_HEADER_LIMIT:,} can be read back",
            mend="keep the weights as initializers (raw data), or as tensors of a safetensors file",
        )
    packed = lzma.compress(plain, format=lzma.FORMAT_RAW, filters=_WRITING)
    numbers = (len(packed), len(plain), zlib.crc32(plain))
    return MAGIC + bytes([VERSION]) + b"".join(n.to_bytes(4, "little") for n in numbers) + packed


def check_version(lead: bytes, where: str) -> None:
    """``lead``: the first bytes of the file ``where``. Raises `Damaged`, and UserError for a newer version's."""
    if not lead.startswith(MAGIC):
        raise Damaged("it does not begin as an .npc file does")
    if len(lead) < LEAD:
        raise Damaged("it is cut off within its first bytes")
    if lead[len(MAGIC)] != VERSION:
        raise UserError(
            f"the file has format version {lead[len(MAGIC)]}, this neuroprune reads version {VERSION}",
            where=where,
            value=lead[len(MAGIC)],
            mend="install a newer neuroprune",
        )


def read_header(file: BinaryIO, file_size: int, limit: int) -> Header:
    """Leaves ``file`` at the first payload. Raises `Damaged`, `OverLimit` for tensors of over ``limit`` bytes."""
    lead = file.read(LEAD)
    packed, plain, crc = (int.from_bytes(lead[at : at + 4], "little") for at in range(LEAD - 12, LEAD, 4))
    if packed > file_size - LEAD - 4:
        raise Damaged(f"its header takes {packed:,} bytes and the file has {file_size:,}")
    if plain > min(_HEADER_LIMIT, packed * _LZMA_EXPANSION):
        raise Damaged(f"a header of {plain:,} bytes cannot come out of {packed:,}")
    header = _parse(Reader(_expand(file.read(packed), plain, crc)))
    _check_sizes(header, file_size - LEAD - packed - 4, limit)
    return header


def _expand(packed: bytes, plain: int, crc: int) -> bytes:
    try:
        header = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=READING).decompress(packed, plain)
    except lzma.LZMAError as error:
        raise Damaged(f"its header cannot be decompressed ({error})") from error
    if len(header) != plain or zlib.crc32(header) != crc:
        raise Damaged("the checksum of its header does not match")
    return header


def _parse(reader: Reader) -> Header:
    format, sha256 = reader.byte(), bytes(reader.take(32))
    if format >= len(_FORMATS):
        raise Damaged(f"it holds a file of unknown kind {format}")
    entries = tuple(_entry(reader) for _ in range(reader.count(reader.left)))
    return Header(_FORMATS[format], sha256, entries, bytes(reader.take(reader.left)))


def _entry(reader: Reader) -> Entry:
    try:
        name = str(reader.take(reader.count(reader.left)), "utf-8")
    except UnicodeDecodeError as error:
        raise Damaged("a tensor's name is no text") from error
    dtype, rank = reader.byte(), reader.byte()
    if dtype not in DTYPES or rank > MAX_RANK:
        raise Damaged(f"tensor {name!r} has an unknown type or {rank} dimensions")
    shape = tuple(reader.count(1 << 62) for _ in range(rank))
    gap, codec, stored = reader.count(1 << 62), reader.byte(), reader.count(1 << 62)
    crc = int.from_bytes(reader.take(4), "little")
    return Entry(name, dtype, shape, gap, crc, codec, stored)


def _check_sizes(header: Header, payload: int, limit: int) -> None:
    stored, gaps = sum(e.stored for e in header.entries), sum(e.gap for e in header.entries)
    if stored != payload:
        raise Damaged(f"its tensors take {stored:,} bytes and the file has {payload:,} for them")
    if gaps > len(header.skeleton):
        raise Damaged("its tensors lie beyond the end of the rebuilt file")
    if any(math.prod(n for n in e.shape if n) > limit for e in header.entries) or header.size > limit:
        raise OverLimit(f"it announces more than the limit of {limit:,} bytes")


def decode(entry: Entry, payload: bytes) -> Bits:
    """The tensor's bit patterns, proven by its checksum. Raises `Damaged`."""
    reader = Reader(payload)
    try:
        bits = codec_of(entry.codec).decode(reader, entry.shape, DTYPES[entry.dtype].itemsize)
        reader.end()
    except Damaged as error:
        raise Damaged(f"tensor {entry.name!r}: {error}") from error
    except MemoryError as error:
        raise Damaged(f"tensor {entry.name!r} needs more memory than there is") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of the native coder; derives from nothing more special
            raise Damaged(f"tensor {entry.name!r}: the coder gave up ({error})") from error
        raise
    same = zlib.crc32(np.ascontiguousarray(bits).data) == entry.crc
    if bits.shape != entry.shape or bits.nbytes != entry.size or not same:
        raise Damaged(f"the checksum of tensor {entry.name!r} does not match")
    return bits


def payloads(file: BinaryIO, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """One after another. Raises `Damaged` where the file ends early."""
    for entry in entries:
        payload = file.read(entry.stored)
        if len(payload) != entry.stored:
            raise Damaged(f"it is cut off in tensor {entry.name!r}")
        yield entry, payload
