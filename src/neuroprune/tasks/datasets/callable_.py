"""The user's own data: a function that returns a Task, or the keyword arguments of ``make_task``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.tasks.batches import seeded
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.importing import call
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task


@DATASETS.register("callable", summary="package.module:callable or file.py:callable, written without 'callable:'")
def callable_(argument: str, options: DataOptions) -> Task:
    """Call it without arguments. Raises UserError when it returns neither a Task nor a dict."""
    for option in ("resize", "limit"):
        if getattr(options, option) is not None:
            raise UserError(f"{option} does not apply to data from a callable", mend="do it in the callable")
    with seeded(options.seed):  # data made by chance must be the same when a run is resumed
        result = call(argument, {}, "data set")
    if isinstance(result, Task):
        return result
    if not isinstance(result, Mapping):
        raise UserError(
            f"the data set {argument!r} returned {type(result).__name__}",
            mend="return neuroprune.make_task(...), or a dict of its keyword arguments",
        )
    return _from_mapping(argument, dict(result), options)


def _from_mapping(argument: str, given: dict[str, Any], options: DataOptions) -> Task:
    valid = inspect.signature(make_task).parameters
    for key in given:
        if key not in valid:
            guess = nearest(str(key), valid)
            raise UserError(
                f"the data set {argument!r} returned an unknown key {key!r}",
                mend=(f"did you mean {guess!r}? " if guess else "") + f"valid keys: {', '.join(valid)}",
            )
    missing = [key for key in ("train", "val") if key not in given]
    if missing:
        raise UserError(
            f"the data set {argument!r} returned no {' and no '.join(missing)}",
            value=f"keys {', '.join(map(str, given)) or 'none'}",
            mend="return at least {'train': ..., 'val': ...}",
        )
    defaults = {"name": argument, "batch_size": options.batch_size, "seed": options.seed}
    return make_task(**{**defaults, **given})
