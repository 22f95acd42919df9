"""Arrays out of npz files: looked at hard before anything uses them, and never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import Origin
from neuroprune.tasks.datasets._base import DataOptions
from neuroprune.tasks.datasets._images import Images, resized, stratified_limit

Array = np.ndarray[Any, Any]


def existing(argument: str, name: str, example: str) -> Path:
    """The path after the colon of a spec. Raises UserError when there is none or nothing lies there."""
    if not argument:
        raise UserError(f"{name} needs a path", mend=f"write {example}")
    path = Path(argument).expanduser()
    if not path.exists():
        raise UserError(
            f"there is no file or folder {argument} for the data set {name}",
            where=str(path.resolve().parent),
            mend="check the path; it is taken from the current folder",
        )
    return path


def read_npz(path: Path, wanted: Sequence[Sequence[str]], optional: Sequence[str] = ()) -> dict[str, Array]:
    """Arrays of the first set of names in ``wanted`` that is complete, and those of ``optional`` that exist.

    Raises UserError when the file is no npz, lacks the names, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:  # numpy leaves files that it opens itself open when they are damaged
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path.name} holds a single array, not named ones", mend=_mend(wanted))
            names = next((names for names in wanted if all(name in archive for name in names)), None)
            if names is None:
                raise UserError(
                    f"{path.name} lacks the arrays that are looked for",
                    where=str(path),
                    value=f"it holds {', '.join(archive) or 'nothing'}",
                    mend=_mend(wanted),
                )
            return {name: archive[name] for name in [*names, *optional] if name in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        pickled = "allow_pickle" in str(error)
        raise UserError(
            f"{path.name} holds pickled objects, which are not loaded"
            if pickled
            else f"{path.name} is no readable npz file: {error}",
            where=str(path),
            mend="save plain numeric arrays with numpy.savez",
        ) from error


def _mend(wanted: Sequence[Sequence[str]]) -> str:
    return "save it with numpy.savez and the names " + " or ".join("/".join(names) for names in wanted)


def checked(x: Array, y: Array, what: str, path: Path, name: str, classes: int | None = None) -> Array:
    """Labels [N] as int64. Raises UserError for no examples, other lengths and labels that are no indices.

    ``name``: of the array of labels; ``classes``: how many there are, where that is known.
    """
    if len(x) == 0:
        raise UserError(f"{what} in {path.name} is empty", where=str(path), mend="save at least one example")
    if len(x) != len(y):
        raise UserError(
            f"{what} in {path.name} has {len(x)} examples and {len(y)} labels",
            where=str(path),
            mend="save one label for each example",
        )
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(
            f"the labels of {what} in {path.name} are not one integer per example",
            where=str(path),
            value=f"{y.dtype} of shape {y.shape}",
            mend="number the classes from 0; for regression write a callable that returns make_task's arguments",
        )
    outside = np.flatnonzero((y < 0) | (y >= classes if classes is not None else False))
    if len(outside):
        known = f": {classes} classes are numbered 0..{classes - 1}" if classes is not None else ""
        raise UserError(
            f"a label is out of range{known}",
            where=f"{name}[{outside[0]}] in {path}",
            value=f"{y[outside[0]]} ({len(outside)} of {len(y)} labels are out of range)",
            mend="number the classes from 0, and remove examples that belong to none",
        )
    return y.astype(np.int64)


def check_finite(x: Array, name: str, path: Path) -> None:
    """Raises UserError naming the first row of the array ``name`` that holds NaN or Inf."""
    bad = ~np.isfinite(x) if np.issubdtype(x.dtype, np.floating) else np.zeros(1, dtype=bool)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        rows = len(np.unique(np.argwhere(bad)[:, 0]))
        raise UserError(
            "the data holds NaN or Inf",
            where=f"{name}[{', '.join(map(str, first))}] in {path}",
            value=f"{x[first]} ({int(bad.sum())} values in {rows} of {len(x)} rows)",
            mend="remove these rows, or replace the values before training",
        )


def read_halves(
    path: Path, *, image: tuple[int, ...], classes: int, options: DataOptions
) -> tuple[Images, Images]:
    """Training and test images of one ``image`` shape ([H, W] or [H, W, C], uint8) as [N, C, H, W].

    ``options.limit`` and ``options.resize`` are applied to each half. Raises UserError.
    """
    names = (("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test"))
    arrays = read_npz(path, names)
    found = list(arrays)
    halves = []
    for what, (x_name, y_name) in (("train", found[:2]), ("test", found[2:])):
        x, y = arrays[x_name], arrays[y_name]
        labels = checked(x, y, what, path, y_name, classes)
        if x.shape[1:] != image or x.dtype != np.uint8:
            raise UserError(
                f"the {what} images in {path.name} are not of the shape and type looked for",
                where=str(path),
                value=f"{x.dtype} of shape {x.shape}, looked for uint8 [N, {', '.join(map(str, image))}]",
                mend="use npz:FILE for other arrays",
            )
        kept = stratified_limit(labels, options.limit, options.seed)
        pixels = x[kept][:, None] if x.ndim == 3 else np.moveaxis(x[kept], -1, 1)  # [N, C, H, W]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        origin = Origin(kept, path, (x_name, y_name))
        halves.append(Images(resized(tensor, options.resize), torch.from_numpy(labels[kept]), origin))
    return halves[0], halves[1]
