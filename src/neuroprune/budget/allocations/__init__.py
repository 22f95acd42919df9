"""Allocations: one file each."""

from neuroprune.budget.allocations import stream as _stream  # noqa: F401  (fills the registry)
from neuroprune.budget.allocations._base import ALLOCATIONS, Allocation

__all__ = ["ALLOCATIONS", "Allocation"]
