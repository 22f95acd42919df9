"""Data as re-iterable batches whose order and randomness depend on (seed, epoch) alone."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from neuroprune.base.errors import UserError
from neuroprune.tasks.task import Batch, Batches, tensor_bytes, tensors_in

#: rows of each tensor that enter its fingerprint; labels are hashed whole
_FINGERPRINT_ROWS = 256


def derive_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed from a seed and any labels: equal on every machine, unlike ``hash``."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class RandomState:
    """The global generators of torch, numpy and Python, taken and put back together."""

    def __init__(self) -> None:
        self._states = (torch.get_rng_state(), np.random.get_state(), random.getstate())

    def restore(self) -> None:
        torch.set_rng_state(self._states[0])
        np.random.set_state(self._states[1])
        random.setstate(self._states[2])

    @staticmethod
    def seed(value: int) -> None:
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)


@contextlib.contextmanager
def seeded(value: int) -> Iterator[None]:
    """Run with the global generators seeded; they are put back afterwards."""
    before = RandomState()
    try:
        RandomState.seed(value)
        yield
    finally:
        before.restore()


@dataclass(frozen=True)
class Origin:
    """Where examples came from, so that a message can name what a user finds in the files.

    ``rows`` [N]: each example's place in its source. The source is arrays (``names``: of inputs and labels) in
    the file ``path``, or, where ``files`` are given, one file for each row.
    """

    rows: np.ndarray[Any, Any]
    path: Path
    names: tuple[str, ...] = ()
    files: Sequence[str] = ()

    def __getitem__(self, rows: np.ndarray[Any, Any]) -> Origin:
        return replace(self, rows=self.rows[rows])

    def place(self, index: int, tensor: int) -> str:
        """Of example ``index``; ``tensor``: which part of a batch it is about (0: inputs, 1: labels)."""
        row = int(self.rows[index])
        return self.files[row] if self.files else f"{self.names[tensor]}[{row}] in {self.path}"


class TensorBatches:
    """Whole tensors in memory, [N, ...] each, cut into batches.

    ``augment(x, generator)`` sees the first tensor of a training batch as stored; ``transform(x)`` then
    turns it into what the model eats, so that images stay uint8 in memory. A last batch of one example
    joins the batch before it: batch norm cannot train on one. ``origin``: for messages, see there.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, ...],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        origin: Origin | None = None,
    ) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise UserError(
                "the arrays of a data set differ in length",
                value=", ".join(str(tuple(tensor.shape)) for tensor in tensors),
                mend="give one label (or target) for each example",
            )
        if batch_size < 1:
            raise UserError("the batch size must be at least 1", value=batch_size, mend="give batch_size=64")
        self.tensors, self.batch_size, self.shuffle, self.seed = tensors, batch_size, shuffle, seed
        self.transform, self.augment, self.origin = transform, augment, origin

    @property
    def samples(self) -> int:
        return len(self.tensors[0])

    def __len__(self) -> int:
        return len(self._bounds())

    def _bounds(self) -> list[tuple[int, int]]:
        starts = list(range(0, self.samples, self.batch_size))
        if len(starts) > 1 and self.samples - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], self.samples], strict=False))  # no starts: no batches

    def epoch(self, index: int | None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, index, "tensors"))
        order = torch.arange(self.samples)
        if index is not None and self.shuffle:
            order = torch.randperm(self.samples, generator=generator)
        for start, stop in self._bounds():
            first, *rest = (tensor[order[start:stop]] for tensor in self.tensors)
            if index is not None and self.augment is not None:
                first = self.augment(first, generator)
            if self.transform is not None:
                first = self.transform(first)
            yield (first, *rest)

    def fingerprint(self) -> str:
        """Evenly spread rows of every tensor, and the small ones (labels) whole."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            whole = tensor.ndim == 1 or len(tensor) <= _FINGERPRINT_ROWS
            rows = tensor if whole else tensor[:: len(tensor) // _FINGERPRINT_ROWS]
            digest.update(tensor_bytes(rows))
        return digest.hexdigest()


class LoaderBatches:
    """A DataLoader, or anything else that yields the batches of an epoch each time it is iterated.

    The loader draws from its own stream of random numbers, seeded by (seed, epoch): torch's, numpy's and
    Python's global generators are swapped while it works, so that shuffling and augmentation are
    repeatable and neither disturb the model's dropout nor are disturbed by it. Generators that a data set
    keeps to itself cannot be reached. ``ordered`` is walked instead for the fixed order, where given.
    """

    def __init__(self, loader: Iterable[Batch], seed: int, *, ordered: Iterable[Batch] | None = None) -> None:
        for source in (loader, ordered):
            if isinstance(source, Iterator):
                raise UserError(
                    "the data can be walked only once",
                    value=type(source).__name__,
                    mend="pass a DataLoader, a list of batches or an object with __iter__, not a generator",
                )
        self.loader, self.seed, self.ordered = loader, seed, loader if ordered is None else ordered
        self._counts: tuple[int, int] | None = None

    def epoch(self, index: int | None) -> Iterator[Batch]:
        source = self.ordered if index is None else self.loader
        seed = derive_seed(self.seed, index, "loader")
        iterator: Iterator[Batch] | None = None
        mine: RandomState | None = None
        while True:
            theirs = RandomState()
            try:
                if iterator is None or mine is None:
                    _reseed(source, seed, 0 if index is None else index)
                    iterator = iter(source)
                else:
                    mine.restore()
                batch = next(iterator)
                mine = RandomState()
            except StopIteration:
                return
            finally:
                theirs.restore()
            yield batch

    def __len__(self) -> int:
        if isinstance(self.loader, Sized):
            try:
                return len(self.loader)
            except TypeError:  # a DataLoader over a stream has __len__, which then refuses
                pass
        return self._count()[0]

    @property
    def samples(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        drops = getattr(self.loader, "drop_last", False)
        custom = getattr(self.loader, "batch_size", None) is None
        if isinstance(dataset, Sized) and not drops and not custom:
            return len(dataset)
        return self._count()[1]

    def _count(self) -> tuple[int, int]:
        """Batches and examples, found once by walking all of them."""
        if self._counts is None:
            sizes = [batch_length(batch) for batch in self.epoch(None)]
            self._counts = len(sizes), sum(sizes)
        return self._counts


def _reseed(source: Iterable[Batch], seed: int, epoch: int) -> None:
    """Seed the global generators, and those that a DataLoader and its samplers hold."""
    RandomState.seed(seed)
    holders = [source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None)]
    for holder in holders:
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        set_epoch = getattr(holder, "set_epoch", None)  # DistributedSampler and its kin
        if callable(set_epoch):
            set_epoch(epoch)


def batch_length(batch: Batch) -> int:
    """Examples in a batch: the first dimension of its first tensor, 0 where it holds none."""
    first = next(tensors_in(batch), None)
    return len(first) if first is not None and first.ndim else 0


def as_batches(data: Any, *, batch_size: int, shuffle: bool, seed: int, what: str = "data") -> Batches:
    """Batches from what users have at hand.

    ``(x, y)`` tensors or arrays, one tensor or array, a ``Dataset``, a ``DataLoader``, a list of batches,
    any object that yields batches each time it is iterated, or ``Batches``. Raises UserError for empty
    data, arrays of different length, one-shot generators and anything else; ``what`` names the split.
    """
    batches = _convert(data, batch_size, shuffle, seed, what)
    if len(batches) == 0 or batches.samples == 0:
        raise UserError(f"the {what} data is empty", mend="check the path and the filters that made it")
    return batches


def _convert(data: Any, batch_size: int, shuffle: bool, seed: int, what: str) -> Batches:
    if hasattr(data, "epoch") and hasattr(type(data), "samples"):
        return cast(Batches, data)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Tensor | np.ndarray):
        data = (data,)
    if isinstance(data, tuple) and data and all(isinstance(item, Tensor | np.ndarray) for item in data):
        return TensorBatches(_of_one_type(data), batch_size, shuffle=shuffle, seed=seed)
    if isinstance(data, Dataset):
        return _from_dataset(data, batch_size, shuffle, seed, what)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        return LoaderBatches(data, seed)
    raise UserError(
        f"cannot use {type(data).__name__} as {what} data",
        mend="pass (x, y) tensors or arrays, a Dataset, a DataLoader or a list of batches",
    )


def _from_dataset(data: Dataset[Any], batch_size: int, shuffle: bool, seed: int, what: str) -> Batches:
    if isinstance(data, IterableDataset):
        return LoaderBatches(DataLoader(data, batch_size), seed)
    if not isinstance(data, Sized):
        raise UserError(f"the {what} Dataset has no length", mend="define __len__, or pass a DataLoader")
    if len(data) == 0:  # DataLoader would raise its own, less helpful, error about num_samples
        return TensorBatches((torch.empty(0),), batch_size, shuffle=False, seed=seed)
    ordered = DataLoader(data, batch_size)
    if not shuffle:
        return LoaderBatches(ordered, seed)
    single = len(data) > batch_size and len(data) % batch_size == 1  # batch norm cannot train on one example
    return LoaderBatches(DataLoader(data, batch_size, shuffle=True, drop_last=single), seed, ordered=ordered)


def _of_one_type(data: tuple[Tensor | np.ndarray[Any, Any], ...]) -> tuple[Tensor, ...]:
    """Targets of double follow the inputs: a loss and its gradient are computed in one type."""
    first, *rest = (as_tensor(item) for item in data)
    dtype = first.dtype if first.is_floating_point() else torch.get_default_dtype()

    def follow(tensor: Tensor) -> Tensor:
        double = torch.float64 in (tensor.dtype, dtype)
        return tensor.to(dtype) if double and tensor.is_floating_point() else tensor

    return (first, *map(follow, rest))


def as_tensor(array: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Integer labels [N] become int64; uint8 images and tensors of any other type stay as they are.

    Arrays of double become float: that is numpy's default type, and seldom meant. Tensors of double are.
    """
    tensor = array if isinstance(array, Tensor) else _from_numpy(array)
    if tensor.dtype == torch.float64 and not isinstance(array, Tensor):
        return tensor.float()
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32)
    return tensor.long() if tensor.ndim <= 1 and tensor.dtype in integers else tensor


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))  # a copy: arrays may be read-only or have negative strides
    except TypeError as error:
        raise UserError(
            f"arrays of type {array.dtype} cannot be used as data", mend="pass numeric arrays"
        ) from error
