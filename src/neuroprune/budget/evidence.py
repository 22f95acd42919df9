"""What an allocation may ask beside errors and costs, worked out when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from neuroprune.base.progress import Progress
from neuroprune.budget.calibration import batches_with
from neuroprune.budget.curves import Sensitivity
from neuroprune.budget.judge import Judge
from neuroprune.budget.sensitivity import RATIOS, Analysis, refit_of, started
from neuroprune.budget.without import Without
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.score import gather, score
from neuroprune.recover.replay import Forward

#: that curves are measured on where none are given: a pass over them is made for every group and ratio
EXAMPLES = 512


def curves_from(given: Sensitivity | Path | str | None) -> Sensitivity | None:
    """Raises UserError for a file that holds no curves."""
    return Sensitivity.load(given) if isinstance(given, Path | str) else given


@dataclass
class Evidence:
    """Of ``groups``, some of those in ``found``. ``orders[g]``: units of group g, first to go first; ``given``:
    curves that were measured before."""

    dense: nn.Module
    found: Trace
    groups: Sequence[Group]
    orders: Sequence[np.ndarray]
    forward: Forward
    batches: Sequence[Any]
    seed: int
    progress: Progress
    given: Sensitivity | None = None
    _scores: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _asked: bool = False

    def scores(self, criterion: str) -> list[np.ndarray]:
        """[units] per group, larger means keep. Raises UserError where the criterion needs labels."""
        if criterion not in self._scores:
            names = {group.name for group in self.groups}
            others = [group.name for group in self.found.groups if group.name not in names]
            statistics = gather(self.dense, criterion, self.batches, self.forward, trace=self.found)
            found = score(self.dense, self.found, criterion, statistics, seed=self.seed, keep=others)
            self._scores[criterion] = [found[group.name] for group in self.groups]
        return self._scores[criterion]

    def curves(self) -> list[np.ndarray]:
        """[units + 1] per group: the given curves, or measured now on `EXAMPLES` with a refit each time."""
        self._asked = True
        if self.given is None:
            self.given = self._measured()
        return self.given.errors(self.groups)

    def unused(self) -> list[str]:
        """A note where curves were given that the allocation did not look at."""
        if self.given is None or self._asked:
            return []
        return ["the sensitivity curves that were given were not used: give allocation='sensitivity' too"]

    def _measured(self) -> Sensitivity:
        batches = batches_with(self.batches, EXAMPLES)
        judge = Judge(self.dense, self.forward, batches, labels=False)
        refit = refit_of(self.dense, self.found, self.forward, batches, self.seed)
        without = Without(self.dense, self.found, refit)
        orders = {group.name: order for group, order in zip(self.groups, self.orders, strict=True)}
        groups = [group for group in self.groups if group.size > 1]
        start = started(groups, without, judge, {"ratios": list(RATIOS)}, {})
        return Analysis(without, judge, orders, self.progress).run(start)
