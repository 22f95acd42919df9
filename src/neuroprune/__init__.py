"""neuroprune: trained PyTorch networks, made small and fast, with proof.

>>> result = neuroprune.compress(model, train=train, val=val, budget=neuroprune.Budget(latency=0.5))
>>> result.model, result.artifact, result.report()

The names below are the whole public surface; each is imported when it is first used, so that
``import neuroprune`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuroprune.api import CompressResult, compress
    from neuroprune.base.errors import BudgetNotMet, CutRefused, NeuropruneError, UserError
    from neuroprune.base.nouns import Budget, Cost, Measurement
    from neuroprune.budget.sensitivity import Sensitivity, sensitivity
    from neuroprune.budget.target import Target
    from neuroprune.budget.to_budget import ToBudgetResult, prune_to_budget
    from neuroprune.cascade.build import CascadeOptions, build_cascade
    from neuroprune.cascade.levels import LevelOptions
    from neuroprune.cascade.runner import CascadeRunner
    from neuroprune.compression.cluster import ClusterReport, cluster_weights
    from neuroprune.compression.npc import PackReport, coded_tensors, pack, unpack
    from neuroprune.graph import Group, Refusal, Trace, cost, trace
    from neuroprune.pruning import (
        Plan,
        PruneResult,
        Transferred,
        Verification,
        apply,
        prune,
        restore,
        save_exported,
        transfer,
        verify,
    )

_WHERE = {
    "neuroprune.api": ("CompressResult", "compress"),
    "neuroprune.base.errors": ("BudgetNotMet", "CutRefused", "NeuropruneError", "UserError"),
    "neuroprune.base.nouns": ("Budget", "Cost", "Measurement"),
    "neuroprune.cascade.build": ("CascadeOptions", "build_cascade"),
    "neuroprune.cascade.levels": ("LevelOptions",),
    "neuroprune.cascade.runner": ("CascadeRunner",),
    "neuroprune.compression.cluster": ("ClusterReport", "cluster_weights"),
    "neuroprune.compression.npc": ("PackReport", "coded_tensors", "pack", "unpack"),
    "neuroprune.graph": ("Group", "Refusal", "Trace", "cost", "trace"),
    "neuroprune.pruning": (
        "Plan",
        "PruneResult",
        "Transferred",
        "Verification",
        "apply",
        "prune",
        "restore",
        "save_exported",
        "transfer",
        "verify",
    ),
    "neuroprune.budget.sensitivity": ("Sensitivity", "sensitivity"),
    "neuroprune.budget.target": ("Target",),
    "neuroprune.budget.to_budget": ("ToBudgetResult", "prune_to_budget"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Budget",
    "BudgetNotMet",
    "CascadeOptions",
    "CascadeRunner",
    "ClusterReport",
    "CompressResult",
    "Cost",
    "CutRefused",
    "Group",
    "LevelOptions",
    "Measurement",
    "NeuropruneError",
    "PackReport",
    "Plan",
    "PruneResult",
    "Refusal",
    "Sensitivity",
    "Target",
    "ToBudgetResult",
    "Trace",
    "Transferred",
    "UserError",
    "Verification",
    "apply",
    "build_cascade",
    "cluster_weights",
    "coded_tensors",
    "compress",
    "cost",
    "pack",
    "prune",
    "prune_to_budget",
    "restore",
    "save_exported",
    "sensitivity",
    "trace",
    "transfer",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neuroprune' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
