"""What every data set loader is given, and the registry that they are filed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuroprune.base.registry import Registry
from neuroprune.tasks.task import Task


@dataclass(frozen=True)
class DataOptions:
    """``resize``: side of the square images, None keeps their size; ``limit``: at most so many examples of
    each half (train, test) of the source, stratified by class; without ``labels`` the data need have none (a
    plain folder of images, an array x alone). ``load_task`` itself picks classes."""

    seed: int = 0
    batch_size: int = 64
    resize: int | None = None
    limit: int | None = None
    labels: bool = True


#: a loader takes the part of the spec after the colon ("" where there is none)
Loader = Callable[[str, DataOptions], Task]

DATASETS: Registry[Loader] = Registry("data set")
