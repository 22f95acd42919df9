"""From arrays of images and labels to a Task: stratified splits, resizing, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import Origin, TensorBatches, derive_seed
from neuroprune.tasks.datasets._base import DataOptions
from neuroprune.tasks.task import Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Normalise:
    """``(pixel * scale - mean) / std`` per channel: stored images [N, C, H, W] -> float32, same shape."""

    scale: float
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, x: Tensor) -> Tensor:
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (x.float() * self.scale - mean) / std


@dataclass(frozen=True)
class Shift:
    """Move images by up to ``pixels`` in both directions (what comes in is 0); ``flip`` mirrors half of them."""

    pixels: int
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count, channels, height, width = x.shape
        margin = self.pixels
        padded = functional.pad(x, (margin,) * 4)  # [N, C, H + 2m, W + 2m]
        offset = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
        rows = (offset[0] + torch.arange(height))[:, None, :, None]  # [N, 1, H, 1]
        columns = offset[1] + torch.arange(width)  # [N, W]
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        images = torch.arange(count)[:, None, None, None]
        return padded[images, torch.arange(channels)[None, :, None, None], rows, columns[:, None, None, :]]


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] as stored (uint8, or float in the source's own range) and labels [N]."""

    x: Tensor
    y: Tensor
    origin: Origin | None = None

    def __getitem__(self, rows: Array) -> Images:
        index = torch.from_numpy(rows)
        return Images(self.x[index], self.y[index], None if self.origin is None else self.origin[rows])

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Pixels:
    """How to read the pixels of a data set, and how far a training image may be moved or mirrored."""

    normalise: Normalise
    classes: Sequence[str] = ()
    shift: int = 0
    flip: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


def stratified_split(labels: Array, shares: Sequence[float], seed: int) -> list[Array]:
    """Cut [0, N) into parts with about the given shares of every class; each part sorted, none overlap.

    The first and the last part get one of every class that has two, however small their share. Equal
    labels, shares and seed give equal parts.
    """
    generator = np.random.default_rng(derive_seed(seed, "split"))
    parts: list[list[Array]] = [[] for _ in shares]
    bounds = np.cumsum(shares)[:-1] / np.sum(shares)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.round(bounds * len(rows)).astype(int)
        if len(rows) > 1:
            cuts = np.clip(cuts, 1, len(rows) - 1)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) if part else np.empty(0, dtype=int) for part in parts]


def stratified_limit(labels: Array, limit: int | None, seed: int) -> Array:
    """At most ``limit`` positions, sorted, that keep the shares of the classes (each has one where it can)."""
    everything = np.arange(len(labels))
    if limit is None or limit >= len(labels):
        return everything
    if limit < 1:
        raise UserError("limit must be at least 1", value=limit, mend="give limit=100, or leave it out")
    generator = np.random.default_rng(derive_seed(seed, "limit"))
    shuffled = generator.permutation(everything)
    # the k-th of n images of a class stands at k / n: the first `limit` of them all are stratified
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        position[rows] = np.arange(len(rows)) / len(rows)
    return np.sort(shuffled[np.argsort(position[shuffled], kind="stable")[:limit]])


def resized(x: Tensor, side: int | None) -> Tensor:
    """Bilinear (antialiased where it shrinks) to ``side`` x ``side``; uint8 stays uint8."""
    if side is None or tuple(x.shape[-2:]) == (side, side):
        return x
    if side < 1:
        raise UserError("resize must be at least 1", value=side, mend="give the side in pixels, e.g. resize=32")
    parts = [
        functional.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True)
        for part in torch.split(x, 1024)  # float copies of everything at once would cost gigabytes
    ]
    if x.dtype == torch.uint8:
        parts = [part.round().clamp(0, 255).to(torch.uint8) for part in parts]
    return torch.cat(parts)


def hold_out(name: str, train: Images, seed: int) -> tuple[Images, Images]:
    """Training images and a stratified tenth of them for validation. Raises UserError where none is left."""
    rows = stratified_split(train.y.numpy(), (0.9, 0.1), seed)
    if not all(len(part) for part in rows):
        raise UserError(
            f"{name} has too few examples to hold out a tenth for validation",
            value=f"{len(train)} training examples",
            mend="give more examples of each class, or a validation set of its own; raise limit",
        )
    return train[rows[0]], train[rows[1]]


def image_task(
    name: str, train: Images, val: Images, test: Images | None, pixels: Pixels, options: DataOptions
) -> Task:
    """A classification task over images in memory; without ``test`` the validation images are the test."""
    height, width = train.x.shape[-2:]
    notes: dict[str, Any] = {
        "layout": "NCHW",
        "scale": pixels.normalise.scale,
        "mean": list(pixels.normalise.mean),
        "std": list(pixels.normalise.std),
        "size": [height, width],
        **pixels.notes,
    }
    if pixels.classes:  # an empty list would promise names that are not there
        notes["classes"] = list(pixels.classes)
    if test is None:
        notes["test_is_val"] = True

    def batches(images: Images, training: bool) -> TensorBatches:
        augment = Shift(pixels.shift, pixels.flip) if training and (pixels.shift or pixels.flip) else None
        return TensorBatches(
            (images.x, images.y),
            options.batch_size,
            shuffle=training,
            seed=options.seed,
            transform=pixels.normalise,
            augment=augment,
            origin=images.origin,
        )

    return Task(
        name=name,
        train=batches(train, training=True),
        val=batches(val, training=False),
        test=batches(val if test is None else test, training=False),
        example_inputs=(pixels.normalise(train.x[:2]),),
        preprocessing=notes,
    )
