"""Tensors that are held in memory up to a limit, and beyond it in temporary files."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import torch
from torch import Tensor

Key = tuple[str, int]

#: bytes that one shelf holds in memory
MOST = 1 << 27


class Shelf(MutableMapping[Key, Tensor]):
    """Key -> tensor. What is got is not to be changed: it may be the one that is held. Files go with the shelf."""

    def __init__(self) -> None:
        self._held: dict[Key, Tensor] = {}
        self._away: dict[Key, Path] = {}
        self._bytes = self._files = 0
        self._folder: Path | None = None

    def __setitem__(self, key: Key, value: Tensor) -> None:
        self.pop(key, None)
        if self._bytes + value.nbytes <= MOST:
            self._held[key] = value
            self._bytes += value.nbytes
            return
        path = self._place()
        torch.save(value.clone(), path)  # of a view the whole storage would be written
        self._away[key] = path

    def __getitem__(self, key: Key) -> Tensor:
        if key in self._held:
            return self._held[key]
        found: Tensor = torch.load(self._away[key], weights_only=True)
        return found

    def __delitem__(self, key: Key) -> None:
        if key in self._held:
            self._bytes -= self._held.pop(key).nbytes
        else:
            self._away.pop(key).unlink()

    def __contains__(self, key: object) -> bool:  # the mixin's would read the file
        return key in self._held or key in self._away

    def __iter__(self) -> Iterator[Key]:
        yield from [*self._held, *self._away]

    def __len__(self) -> int:
        return len(self._held) + len(self._away)

    def _place(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="neuroprune-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files += 1
        return self._folder / f"{self._files}.pt"
