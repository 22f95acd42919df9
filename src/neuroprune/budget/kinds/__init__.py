"""Kinds of budgets: one file each."""

from neuroprune.budget.kinds import counted as _counted  # noqa: F401  (fills the registry)
from neuroprune.budget.kinds import energy as _energy  # noqa: F401
from neuroprune.budget.kinds import latency as _latency  # noqa: F401
from neuroprune.budget.kinds import memory as _memory  # noqa: F401
from neuroprune.budget.kinds import size as _size  # noqa: F401
from neuroprune.budget.kinds._base import KINDS, BudgetKind, Setting

__all__ = ["KINDS", "BudgetKind", "Setting"]
