"""The user's own arrays in an npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import Origin, TensorBatches
from neuroprune.tasks.datasets._arrays import check_finite, checked, existing, read_npz
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import (
    Images,
    Normalise,
    Pixels,
    hold_out,
    image_task,
    resized,
    stratified_limit,
    stratified_split,
)
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task

Array = np.ndarray[Any, Any]
_CHANNELS = (1, 3, 4)


@DATASETS.register("npz", summary="npz:FILE with train_x/train_y/test_x/test_y, or x/y to be split 60/20/20")
def npz(argument: str, options: DataOptions) -> Task:
    """uint8 arrays are images ([N, H, W], [N, H, W, C] or [N, C, H, W]) and are scaled to 0..1; floats stay.

    ``val_x``/``val_y`` and ``test_x``/``test_y`` are used where they exist; without, validation is a
    stratified tenth of the training examples. Without labels the arrays of inputs are enough.
    """
    path = existing(argument, "npz", "npz:path/to/data.npz")
    others = ("val_x", "val_y", "test_x", "test_y")
    wanted = (("train_x", "train_y"), ("x", "y")) if options.labels else (("train_x",), ("x",))
    arrays = read_npz(path, wanted, optional=others)
    parts = {
        half: _part(arrays, f"{half}_", path, options)
        for half in ("train", "val", "test")
        if f"{half}_x" in arrays
    }
    name = path.stem
    if "train" not in parts:
        whole = _part(arrays, "", path, options)
        rows = stratified_split(whole.y.numpy(), (0.6, 0.2, 0.2), options.seed)
        parts = {half: whole[part] for half, part in zip(("train", "val", "test"), rows, strict=True)}
    elif "val" not in parts:
        parts["train"], parts["val"] = hold_out(name, parts["train"], options.seed)
    return _task(name, parts, options)


def _part(arrays: dict[str, Array], half: str, path: Path, options: DataOptions) -> Images:
    """The arrays ``half``x and ``half``y, looked at before they are split or shuffled."""
    names = (f"{half}x", f"{half}y")
    x, y = arrays[names[0]], arrays.get(names[1])
    if not options.labels:
        y = np.zeros(len(x), dtype=np.int64)
    if y is None:
        raise UserError(f"{path.name} has {names[0]} but no {names[1]}", where=str(path), mend="save both")
    labels = checked(x, y, half.rstrip("_") or "data", path, names[1])
    check_finite(x, names[0], path)
    kept = stratified_limit(labels, options.limit, options.seed)
    tensor = _as_input(x[kept], names[0], path)
    if options.resize is not None and tensor.ndim != 4:
        raise UserError(
            f"resize needs images, and {names[0]} in {path.name} holds none",
            where=str(path),
            value=f"shape {x.shape}",
            mend="leave resize out",
        )
    return Images(resized(tensor, options.resize), torch.from_numpy(labels[kept]), Origin(kept, path, names))


def _as_input(x: Array, name: str, path: Path) -> torch.Tensor:
    """Floats as float32; uint8 images as they are; images as [N, C, H, W]."""
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise UserError(
            f"{name} in {path.name} is neither uint8 images nor floats",
            where=str(path),
            value=f"{x.dtype} of shape {x.shape}",
            mend="save images as uint8 and everything else as float32",
        )
    if x.dtype == np.uint8 and x.ndim == 3:
        x = x[:, None]  # [N, H, W] grey images
    if x.ndim == 4 and x.shape[-1] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = np.moveaxis(x, -1, 1)
    x = np.ascontiguousarray(x)
    return torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float32))


def _task(name: str, parts: dict[str, Images], options: DataOptions) -> Task:
    train, val, test = parts["train"], parts["val"], parts.get("test")
    if train.x.ndim == 4:
        channels = train.x.shape[1]
        scale = 1 / 255 if train.x.dtype == torch.uint8 else 1.0
        pixels = Pixels(Normalise(scale, (0.0,) * channels, (1.0,) * channels))
        return image_task(name, train, val, test, pixels, options)
    batches = {
        half: TensorBatches(
            (part.x, part.y), options.batch_size, shuffle=half == "train", seed=options.seed, origin=part.origin
        )
        for half, part in parts.items()
    }
    return make_task(name=name, train=batches["train"], val=batches["val"], test=batches.get("test"))
