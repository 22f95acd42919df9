"""Two levels: units go, then weights inside the units that stay."""

from __future__ import annotations

import math
from dataclasses import replace

from neuroprune.pruning.allocate import Scope
from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._cutting import cut_to, is_any, units_of
from neuroprune.techniques._masking import sparse, train


@TECHNIQUES.register(
    "two-level",
    summary="units are cut, then single weights of the kept units switched off",
    source="S2; S3 (two-level sparsity)",
)
def two_level(
    setting: Setting,
    *,
    units: str = "taylor",
    criterion: str = "activation",
    scope: Scope = "global",
    coarse: float | None = None,
    schedule: str = "cubic",
    spread: Spread = "erk",
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Thinned:
    """``coarse``: the density after the first level, default the square root of the whole; a third of the epochs
    follow it, the others train while weights go. ``units``, ``criterion``: what each level goes by."""
    coarse = math.sqrt(setting.density) if coarse is None else coarse
    first = setting.fit.epochs // 3
    found = units_of(setting, setting.model, is_any, "units")
    small, plan = cut_to(
        setting, setting.model, found, max(coarse, setting.density), criterion=units, scope=scope, keep=keep,
        round_to=round_to,
    )  # fmt: skip
    between = train(setting, small, "training after the cut", config=replace(setting.fit, epochs=first))
    rest = replace(setting, fit=replace(setting.fit, epochs=setting.fit.epochs - first))
    inner = sparse(rest, criterion=criterion, schedule=schedule, spread=spread, keep=keep, model=small)
    return replace(inner, plan=plan, trainings=(*between, *inner.trainings))
