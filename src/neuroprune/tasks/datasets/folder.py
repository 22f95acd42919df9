"""Images in folders: one folder per class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.tasks.batches import Origin
from neuroprune.tasks.datasets._arrays import existing
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import (
    Images,
    Normalise,
    Pixels,
    hold_out,
    image_task,
    stratified_limit,
    stratified_split,
)
from neuroprune.tasks.task import Task

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
_GREY_MODES = {"1", "L", "LA"}
#: colour: ImageNet's constants, which most pretrained networks expect; grey: the middle of the range
_COLOUR = Normalise(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_GREY = Normalise(scale=1 / 255, mean=(0.5,), std=(0.5,))


@dataclass(frozen=True)
class Listing:
    """The image files of one split and their class indices."""

    files: list[Path]
    labels: list[int]

    def limited(self, options: DataOptions) -> Listing:
        kept = stratified_limit(np.array(self.labels), options.limit, options.seed)
        return Listing([self.files[row] for row in kept], [self.labels[row] for row in kept])


@DATASETS.register(
    "folder", summary="folder:DIR, one sub-folder of images per class; train/ val/ test/ above is optional"
)
def folder(argument: str, options: DataOptions) -> Task:
    """Without train/ and test/ above the class folders: stratified 60/20/20; without val/: a tenth of train/.

    Grey where all images are grey, else RGB. Images of mixed size need ``resize``. Without labels all images below
    each folder are taken, in whatever folders they lie.
    """
    path = existing(argument, "folder", "folder:path/to/images")
    if not path.is_dir():
        raise UserError(f"{path} is a file", mend="name a folder with one sub-folder per class")
    splits = {half: path / half for half in ("train", "val", "test") if (path / half).is_dir()}
    if "train" not in splits:
        splits = {"train": path}
    classes = _class_names(splits["train"]) if options.labels else []
    listings = {
        half: (_list(where, classes) if options.labels else _unlabelled(where)).limited(options)
        for half, where in splits.items()
    }
    grey = _look(listings.values(), options)
    parts = {half: _read(listing, grey, options) for half, listing in listings.items()}
    train, val, test = _split(path.name, parts, options)
    pixels = Pixels(_GREY if grey else _COLOUR, classes=classes)
    return image_task(path.resolve().name, train, val, test, pixels, options)


def _split(name: str, parts: dict[str, Images], options: DataOptions) -> tuple[Images, Images, Images | None]:
    train = parts["train"]
    if "val" in parts:
        return train, parts["val"], parts.get("test")
    if "test" in parts:
        return *hold_out(name, train, options.seed), parts["test"]
    rows = stratified_split(train.y.numpy(), (0.6, 0.2, 0.2), options.seed)
    if not all(len(part) for part in rows):
        raise UserError(
            f"{name} has too few images to split them 60/20/20",
            value=f"{len(train)} images",
            mend="give more images of each class, or folders train/ val/ test/",
        )
    first, second, third = (train[part] for part in rows)
    return first, second, third


def _class_names(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(
            f"the folder {path} has no sub-folders, and each class needs one",
            where=str(path.resolve()),
            mend="put the images of each class into a folder with the class's name",
        )
    return names


def _list(path: Path, classes: list[str]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    for name in _class_names(path):
        if name not in classes:
            guess = nearest(name, classes)
            raise UserError(
                f"the class {name!r} is in {path.name}/ and not in train/",
                where=str(path.resolve()),
                mend=(f"did you mean {guess!r}? " if guess else "") + "every class needs training images",
            )
        found = sorted(file for file in (path / name).rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise UserError(
                f"the class folder {name!r} holds no images",
                where=str((path / name).resolve()),
                mend=f"add images ({', '.join(sorted(_SUFFIXES))}) or remove the folder",
            )
        files += found
        labels += [classes.index(name)] * len(found)
    return Listing(files, labels)


def _unlabelled(path: Path) -> Listing:
    """All images below ``path``, in the order of their names; whatever folders they lie in."""
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise UserError(
            f"the folder {path} holds no images",
            where=str(path.resolve()),
            mend=f"add images ({', '.join(sorted(_SUFFIXES))})",
        )
    return Listing(found, [0] * len(found))


def _look(listings: Iterable[Listing], options: DataOptions) -> bool:
    """Whether all images are grey. Raises UserError when sizes differ; reads the headers only."""
    from PIL import Image

    first: tuple[Path, tuple[int, int]] | None = None
    grey = True
    for file in (file for listing in listings for file in listing.files):
        try:
            with Image.open(file) as image:
                size, mode = image.size, image.mode
        except OSError as error:
            raise _unreadable(file) from error
        grey = grey and mode in _GREY_MODES
        first = first or (file, size)
        if options.resize is None and size != first[1]:
            raise UserError(
                "the images differ in size",
                where=str(file.parent),
                value=f"{first[0].name} is {first[1][0]}x{first[1][1]}, {file.name} is {size[0]}x{size[1]}",
                mend=f"give --resize N (one side of a square in pixels, for example --resize {min(first[1])})",
            )
    return grey


def _read(listing: Listing, grey: bool, options: DataOptions) -> Images:
    """Decode to uint8 [N, C, H, W]; with ``resize`` each image is resized as it is read."""
    from PIL import Image

    arrays = []
    for file in listing.files:
        try:
            with Image.open(file) as image:
                pixels = image.convert("L" if grey else "RGB")
        except OSError as error:
            raise _unreadable(file) from error
        if options.resize is not None:
            pixels = pixels.resize((options.resize, options.resize), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(pixels))
    stack = np.stack(arrays)  # [N, H, W] or [N, H, W, 3]
    stack = stack[:, None] if grey else np.moveaxis(stack, -1, 1)
    files = [str(file) for file in listing.files]
    origin = Origin(np.arange(len(files)), listing.files[0].parent, files=files)
    return Images(torch.from_numpy(np.ascontiguousarray(stack)), torch.tensor(listing.labels), origin)


def _unreadable(file: Path) -> UserError:
    return UserError(f"{file.name} is no readable image", where=str(file.parent), mend="repair or remove the file")
