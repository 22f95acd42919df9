"""A Task from one line of text, as it is written on the command line and in recipes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from neuroprune.tasks.classes import only_classes
from neuroprune.tasks.datasets import DATASETS, DataOptions
from neuroprune.tasks.task import Task


def load_task(
    spec: str,
    *,
    seed: int = 0,
    batch_size: int = 64,
    resize: int | None = None,
    limit: int | None = None,
    labels: bool = True,
    classes: Sequence[int] | None = None,
) -> Task:
    """The data that ``spec`` names.

    >>> load_task("digits", resize=16)                                                    # doctest: +SKIP

    ``digits``, ``mnist:FILE.npz``, ``cifar10:DIR_OR_FILE``, ``folder:DIR`` (a folder per class), ``npz:FILE``,
    ``fsdd:FILE.npz``, ``package.module:callable`` or ``path/file.py:callable`` (returns a Task or the keyword
    arguments of ``make_task``). ``resize``: side of square images; ``limit``: at most so many examples of each
    half of the source, stratified; ``labels=False``: the data need have none; ``classes``: only the examples of
    these, of what ``limit`` leaves, and numbered 0, 1, ... in this order. Raises UserError for an unknown name
    (the nearest is offered), missing or empty files, and whatever the loader finds wrong.
    """
    task = _load(spec, seed=seed, batch_size=batch_size, resize=resize, limit=limit, labels=labels)
    return task if classes is None else only_classes(task, classes)


def _load(spec: str, *, seed: int, batch_size: int, resize: int | None, limit: int | None, labels: bool) -> Task:
    options = DataOptions(seed=seed, batch_size=batch_size, resize=resize, limit=limit, labels=labels)
    head, _, rest = spec.partition(":")
    if head not in DATASETS.names() and rest and _is_code(head):
        return DATASETS.get("callable")(spec, options)
    return DATASETS.get(head)(rest, options)


def _is_code(head: str) -> bool:
    """A Python file, or a module that can be found: not a misspelt data set."""
    if head.endswith(".py") or "." in head or "/" in head or Path(f"{head}.py").is_file():
        return True
    try:
        return importlib.util.find_spec(head) is not None
    except (ImportError, ValueError):
        return False
