"""Kinds of budgets: one file each."""

from neuroprune.budget.kinds import counted as _counted  # noqa: F401  (fills the registry)
from neuroprune.budget.kinds._base import KINDS, BudgetKind, Setting

__all__ = ["KINDS", "BudgetKind", "Setting"]
