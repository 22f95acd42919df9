"""``pack`` and ``unpack``: ONNX or safetensors <-> ``model.npc``."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from neuroprune.base.errors import UserError
from neuroprune.base.files import atomic_path, beginning, cannot_read, write_bytes
from neuroprune.compression.npc import container
from neuroprune.compression.npc._base import CODECS, Plain, array_of, best_codec
from neuroprune.compression.npc.container import Entry, Header
from neuroprune.compression.npc.spans import DTYPES, Span, format_of, numpy_dtype, spans_of
from neuroprune.compression.npc.wire import Damaged, OverLimit

#: bytes that a file may unpack to, unless the caller says otherwise: an ONNX file cannot be larger
LIMIT = 1 << 31
_COPY = "copy the file again whole, or pack the network again"


@dataclass(frozen=True)
class PackReport:
    """Bytes before and after; per codec, how many tensors took it."""

    source_bytes: int
    target_bytes: int
    codecs: dict[str, int]

    @property
    def ratio(self) -> float:
        """How many times smaller."""
        return self.source_bytes / self.target_bytes


def pack(source: Path | str | Mapping[str, NDArray[Any]], to: Path | str, *, smallest: bool = False) -> PackReport:
    """Code an ONNX file, a safetensors file or named arrays into the file ``to``; nothing is lost.

    >>> neuroprune.pack("model.int8.onnx", "model.npc").ratio

    Before the file is written each tensor is decoded again and proven by its checksum. Arrays are taken as the
    safetensors file that holds them. ``smallest`` spares up to 1 % more where large tensors would otherwise be
    coded so that they decode faster. Raises UserError when the source is of neither kind, keeps its tensors in
    other files, or has too much beside them.
    """
    data, name = _read(source)
    coded, codecs = _pack(data, name, fast=not smallest)
    write_bytes(Path(to), coded)
    return PackReport(len(data), len(coded), codecs)


def unpack(source: Path | str, to: Path | str, *, limit: int = LIMIT) -> int:
    """Write the file that ``source`` was packed from, byte for byte; return its size.

    Tensors are decoded one at a time. Raises UserError, and writes nothing, when the file is damaged, is of a
    newer version, or would unpack to more than ``limit`` bytes.
    """
    source = Path(source)
    with _open(source) as file, atomic_path(Path(to)) as temporary, temporary.open("wb") as target:
        header, digest = _header(file, source, limit), hashlib.sha256()
        for piece in _pieces(file, header):
            digest.update(piece)
            target.write(piece)
        if digest.digest() != header.sha256:
            raise Damaged("the rebuilt file is not the one that was packed")
    return header.size


def coded_tensors(source: Path | str, *, limit: int = LIMIT) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (name, array) of each coded tensor, in the file's order; one is in memory at a time.

    Tensors under 192 bytes are not among them: they are part of the rebuilt file's other bytes. An array of
    4-bit or 8-bit floating-point values comes as uint8. Raises UserError as ``unpack`` does.
    """
    source = Path(source)
    with _open(source) as file:
        for entry, payload in container.payloads(file, _header(file, source, limit).entries):
            bits = container.decode(entry, payload)
            yield entry.name, bits.view(numpy_dtype(entry.dtype))


def _read(source: Path | str | Mapping[str, NDArray[Any]]) -> tuple[bytes, str]:
    if isinstance(source, Mapping):
        from safetensors.numpy import save

        try:
            return save({name: np.asarray(array, order="C") for name, array in source.items()}), "arrays"
        except Exception as error:  # safetensors' errors and those of numpy share no base
            raise UserError(
                f"safetensors cannot hold these arrays: {error}", mend="give numpy arrays of numbers or booleans"
            ) from error
    path = Path(source)
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise cannot_read(path, error.strerror or str(error)) from error


def _pack(data: bytes, name: str, fast: bool) -> tuple[bytes, dict[str, int]]:
    """The coded file, proven to give ``data`` back, and how often each codec was taken."""
    format = format_of(data, name)
    entries, payloads, skeleton, position = [], [], [], 0
    for span in spans_of(data, format):
        skeleton.append(data[position : span.start])
        tensor = data[span.start : span.start + span.size]
        entry, payload = _coded(span, tensor, span.start - position, fast)
        position = span.start + span.size
        entries.append(entry)
        payloads.append(payload)
    skeleton.append(data[position:])
    header = Header(format, hashlib.sha256(data).digest(), tuple(entries), b"".join(skeleton))
    body = b"".join([container.write_header(header), *payloads])
    names = {entry.value.number: entry.name for entry in CODECS.entries()}
    taken = [names[entry.codec] for entry in entries]
    return body + zlib.crc32(body).to_bytes(4, "little"), {name: taken.count(name) for name in sorted(set(taken))}


def _coded(span: Span, data: bytes, gap: int, fast: bool) -> tuple[Entry, bytes]:
    dtype = DTYPES[span.dtype]
    bits = array_of(data, dtype.itemsize).reshape(span.shape)
    codec, payload = best_codec(Plain(bits, dtype.kind, span.hint, fast))
    entry = Entry(span.name, span.dtype, span.shape, gap, zlib.crc32(data), codec.number, len(payload))
    container.decode(entry, payload)  # raises where it does not give the tensor back
    return entry, payload


def _pieces(file: BinaryIO, header: Header) -> Iterator[bytes]:
    """The rebuilt file: skeleton and tensors in turn."""
    position = 0
    for entry, payload in container.payloads(file, header.entries):
        yield header.skeleton[position : position + entry.gap]
        position += entry.gap
        yield container.decode(entry, payload).tobytes()
    yield header.skeleton[position:]


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The file, its checksum proven. What is wrong inside it becomes a UserError that names it."""
    try:
        with path.open("rb") as file:
            _check_whole(file, path)
            yield file
    except Damaged as error:
        over = isinstance(error, OverLimit)
        raise UserError(
            f"{path.name}: {error}" if over else f"{path.name} is damaged: {error}",
            where=str(path.absolute().parent),
            value=beginning(path),
            mend="give a higher limit (--limit), if you trust the file" if over else _COPY,
        ) from error
    except OSError as error:
        raise cannot_read(path, error.strerror or str(error)) from error


def _check_whole(file: BinaryIO, path: Path) -> None:
    """The version first: a newer file may be checked in another way."""
    container.check_version(file.read(container.LEAD), str(path))
    size = file.seek(0, 2)
    file.seek(0)
    crc, left = 0, size - 4
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        crc, left = zlib.crc32(part, crc), left - len(part)
    if int.from_bytes(file.read(4), "little") != crc:
        raise Damaged("the checksum of the file does not match")
    file.seek(0)


def _header(file: BinaryIO, path: Path, limit: int) -> Header:
    return container.read_header(file, path.stat().st_size, limit)
