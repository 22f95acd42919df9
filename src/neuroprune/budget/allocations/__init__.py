"""Allocations: one file each."""

from neuroprune.budget.allocations import dp, erk, global_, lamp, sensitivity, stream, uniform
from neuroprune.budget.allocations._base import ALLOCATIONS, Allocation

__all__ = ["ALLOCATIONS", "Allocation", "dp", "erk", "global_", "lamp", "sensitivity", "stream", "uniform"]
