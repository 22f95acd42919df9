"""Writes that are whole or absent: temporary name, sync, rename. JSON and safetensors on top."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest

#: what the operating system says when there is no room left: full disk, quota, file size limit
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed to ``path``.

    On any error the temporary file is removed and ``path`` is as it was. Raises UserError when the
    folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``; on success it becomes ``path``, on any error it is removed.

    Raises UserError, before anything else happens, when ``path`` holds something or cannot be made.
    """
    path = path.absolute()
    check_free(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with _making(path):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with _making(path):
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Raises UserError when ``folder`` is there and holds anything."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"the folder {folder.name} is not empty",
            where=str(folder.absolute().parent),
            value=", ".join(sorted(entry.name for entry in folder.iterdir())[:5]),
            mend="name another folder with --out, or remove this one",
        )


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[None]:
    try:
        if (file := file_in_the_way(folder)) is not None:
            raise NotADirectoryError(errno.ENOTDIR, f"{file} is a file, not a folder")
        yield
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder.name}: {error.strerror or error}",
            where=str(folder.parent),
            value=str(folder),
            mend="choose a folder you may write to with --out",
        ) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    """Says which part of the path it is that stands in the way, and what is offered to choose another."""
    place = "write to another place (--out, or --to of restore)"
    file = file_in_the_way(path.parent)
    if file is not None:
        what, value, mend = f"{file} is a file, not a folder", str(file), f"remove or rename it, or {place}"
    elif path.is_dir():
        what, value, mend = f"{path.name} is a folder, not a file", str(path), f"name a file in it, or {place}"
    else:
        what, value = error.strerror or str(error), path.name
        mend = f"{'free some space' if error.errno in _NO_ROOM else 'check who may write there'}, or {place}"
    return UserError(
        f"cannot write {path.name}: {what}",
        where=str(path.parent),
        value=value,
        mend=f"{mend}; what was written before is intact",
    )


def file_in_the_way(folder: Path) -> Path | None:
    """The file at, or above, where a folder is wanted. The system's own words are only "File exists"."""
    above = (folder, *folder.parents)
    return next((path for path in above if os.path.exists(path) and not os.path.isdir(path)), None)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once the folder itself is synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Stable JSON: sorted keys, two spaces, final newline; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UserError when the file is absent or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error.strerror or str(error)) from error
    except ValueError as error:  # also bytes that are no text
        raise UserError(
            f"{path.name} is not valid JSON: {error}",
            where=str(path),
            value=beginning(path),
            mend="the file was changed or not copied whole: copy it again, or make it again",
        ) from error


def beginning(path: Path) -> str:
    """The size and the first bytes of a file that is not what its name says, for messages."""
    with path.open("rb") as file:
        head = file.read(24)
    return f"{path.stat().st_size:,} bytes, which begin with {head!r}" if head else "0 bytes"


def cannot_read(path: Path, reason: str) -> UserError:
    here = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = nearest(path.name, here) if path.name not in here else None
    return UserError(
        f"cannot read {path.name}: {reason}",
        where=str(path.resolve().parent),
        value=str(path),
        mend=f"did you mean {guess!r}?" if guess else "check the path; it is taken from the current folder",
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file without metadata, so that the same tensors give the same bytes.

    Tensors that share storage (tied weights) are written once per name.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_bytes(path, save(plain))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Raises UserError when the file is absent, truncated or not safetensors."""
    if path.is_dir():
        raise cannot_read(path, "it is a folder")
    if not path.is_file():
        raise cannot_read(path, "there is no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path.name} is not a readable safetensors file: {error}",
            where=str(path),
            value=beginning(path),
            mend="copy it again whole, or write it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, and one thread; let go of when the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
