"""CIFAR-10 from an npz file of exact pixels, or from a zip of JPEGs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from neuroprune.base.errors import UserError
from neuroprune.base.files import beginning
from neuroprune.tasks.batches import Origin
from neuroprune.tasks.datasets._arrays import existing, read_halves
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import (
    Images,
    Normalise,
    Pixels,
    hold_out,
    image_task,
    resized,
    stratified_limit,
)
from neuroprune.tasks.task import Task

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: ImageNet's constants, not CIFAR-10's own: the common pretrained CIFAR ResNets were trained with these
_NORMALISE = Normalise(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
#: what a whole CIFAR-10 holds; fewer training images are named a subset
_WHOLE = 50_000


@DATASETS.register(
    "cifar10",
    summary="cifar10:DIR_OR_FILE, 32x32 colour images, 10 classes: npz of pixels or zip of JPEGs",
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
)
def cifar10(argument: str, options: DataOptions) -> Task:
    """Validation is a stratified tenth of the training images; [3, 32, 32] or [3, resize, resize].

    A folder may hold either file; the exact pixels win. The name says which were read, because an
    accuracy on JPEGs is not one on CIFAR-10.
    """
    path = _file_in(existing(argument, "cifar10", "cifar10:path/to/folder"))
    if path.suffix == ".zip":
        name, (train, test) = "CIFAR-10 (JPEG q75)", _read_zip(path, options)
    else:
        train, test = read_halves(path, image=(32, 32, 3), classes=len(CLASSES), options=options)
        name = "CIFAR-10" if len(train) == _WHOLE else "CIFAR-10 (lossless subset)"
    pixels = Pixels(_NORMALISE, classes=CLASSES, shift=3, flip=True)
    return image_task(name, *hold_out(name, train, options.seed), test, pixels, options)


def _file_in(path: Path) -> Path:
    if path.is_file():
        return path
    found = [*sorted(path.glob("*.npz")), *sorted(path.glob("*.zip"))]
    if not found:
        raise UserError(
            f"the folder {path} holds neither an npz file nor a zip of JPEGs of CIFAR-10",
            where=str(path.resolve()),
            mend="name the file itself; for images in folders write folder:DIR",
        )
    return found[0]


def _read_zip(path: Path, options: DataOptions) -> tuple[Images, Images]:
    """Members are train/<class>/*.jpg and test/<class>/*.jpg; only those within ``limit`` are decoded."""
    try:
        with zipfile.ZipFile(path) as archive:
            train, test = (_read_half(archive, half, path, options) for half in ("train", "test"))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path.name} is no readable zip file: {error}",
            where=str(path),
            value=beginning(path),
            mend="copy or download it again, whole",
        ) from error
    return train, test


def _read_half(archive: zipfile.ZipFile, half: str, path: Path, options: DataOptions) -> Images:
    names: list[str] = []
    labels: list[int] = []
    for name in sorted(archive.namelist()):
        part, _, rest = name.partition("/")
        kind = rest.partition("/")[0]
        if part == half and kind in CLASSES and not name.endswith("/"):
            names.append(name)
            labels.append(CLASSES.index(kind))
    if not names:
        raise UserError(
            f"{path.name} holds no images {half}/<class>/*.jpg",
            where=str(path),
            mend=f"the classes are {', '.join(CLASSES)}",
        )
    y = np.array(labels)
    kept = stratified_limit(y, options.limit, options.seed)
    x = torch.from_numpy(np.stack([_decode(archive, names[row], path) for row in kept]))  # [N, H, W, 3]
    images = x.permute(0, 3, 1, 2).contiguous()
    origin = Origin(kept, path, files=[f"{name} in {path}" for name in names])
    return Images(resized(images, options.resize), torch.from_numpy(y[kept]), origin)


def _decode(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """Pixels [32, 32, 3] of one member. Raises UserError for anything but a 32x32 image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(archive.read(name))) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{name} in {path.name} is no readable image", where=str(path), value=name, mend="repair or remove it"
        ) from error
    if pixels.shape != (32, 32, 3):
        raise UserError(
            f"{name} in {path.name} is not 32x32",
            where=str(path),
            value=pixels.shape,
            mend="remove it; for images of other sizes write folder:DIR with resize",
        )
    return pixels
