"""Data sets by name; importing this package files all of them in ``DATASETS``."""

from neuroprune.tasks.datasets import callable_, cifar10, digits, folder, fsdd, mnist, npz
from neuroprune.tasks.datasets._base import DATASETS, DataOptions

__all__ = ["DATASETS", "DataOptions", "callable_", "cifar10", "digits", "folder", "fsdd", "mnist", "npz"]
