"""Counts by trial: other choices than the first are refitted on a few examples, and the best of them is taken.

Curves of errors add up what each layer loses. How much of that later refits make good, and what goes wrong
together, they cannot say; a refit of the whole network on some hundred examples can. From the first choice on, the
errors of some groups and blocks are multiplied by random factors and the same allocation chooses again under the
same limits; where the outputs on other examples come nearer to the dense network's, the search goes on from there:
a (1+1) evolution strategy (Rechenberg 1973) on the logarithms of the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.progress import Progress
from neuroprune.budget.calibration import batches_with
from neuroprune.budget.depth import Choice, Removable
from neuroprune.budget.judge import Judge
from neuroprune.budget.problem import Known, Problem
from neuroprune.recover.obs import Ranking
from neuroprune.recover.refit import ClosedForm, Consumption
from neuroprune.recover.replay import Forward
from neuroprune.tasks.batches import batch_length

#: examples of a trial's refit, and others by which trials are compared: half of what there is where that is less
FITTED, JUDGED = 256, 512
#: of a trial's refit per column (see `refit.ROWS_PER_COLUMN`): choices are compared, not kept
ROWS = 30
#: standard deviation of a factor's logarithm, and the share of factors that change at once
SPREAD, CHANGED = 0.6, 0.3
#: draws per trial that lead to a choice that was tried before, until the search is over
REPEATS = 20


@dataclass(frozen=True)
class Factors:
    """By what the errors of each group and of each removable block count more than they say, as logarithms."""

    groups: np.ndarray
    blocks: np.ndarray

    @classmethod
    def none(cls, problem: Problem, blocks: Sequence[Removable]) -> Factors:
        return cls(np.zeros(len(problem.errors)), np.zeros(len(blocks)))

    @property
    def changed(self) -> bool:
        return bool(self.groups.any() or self.blocks.any())

    def on(self, problem: Problem, blocks: Sequence[Removable]) -> tuple[Problem, list[Removable]]:
        errors, known = self.weighted(problem.errors), _Weighted(problem.known, self)
        pairs = zip(blocks, np.exp(self.blocks).tolist(), strict=True)
        changed = [replace(one, error=one.error * factor) for one, factor in pairs]
        return replace(problem, errors=errors, known=known), changed

    def weighted(self, curves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [curve * np.exp(own) for curve, own in zip(curves, self.groups, strict=True)]

    def near(self, random: np.random.Generator) -> Factors:
        """Some of them changed, one at least."""
        every = np.concatenate([self.groups, self.blocks])
        changes = random.random(every.size) < max(CHANGED, 1 / every.size)
        changes[random.integers(every.size)] = True
        every = every + changes * SPREAD * random.standard_normal(every.size)
        return Factors(every[: self.groups.size], every[self.groups.size :])


@dataclass(frozen=True)
class _Weighted:
    """What is known about the network, its measured curves times ``factors`` too."""

    known: Known
    factors: Factors

    @property
    def dense(self) -> nn.Module:
        return self.known.dense

    def scores(self, criterion: str) -> Sequence[np.ndarray]:
        return self.known.scores(criterion)

    def curves(self) -> list[np.ndarray]:
        return self.factors.weighted(self.known.curves())


class Trials:
    """Refits of choices on the first of ``batches``, each compared with ``dense`` on those that follow.

    Where there is one batch alone it serves for both.
    """

    def __init__(
        self,
        dense: nn.Module,
        forward: Forward,
        batches: Sequence[Any],
        found: Sequence[Consumption],
        rankings: Mapping[str, Ranking],
        seed: int,
    ) -> None:
        self.dense, self.forward, self.seed = dense, forward, seed
        self.found, self.rankings = found, rankings
        self.fitted, others = _parted(batches)
        self.judge = Judge(dense, forward, others, labels=False)
        self.known: dict[tuple[object, ...], float] = {}

    def error(self, choice: Choice) -> float:
        """Squared error of the outputs over the dense network's; infinite where they are not finite."""
        if choice.key() not in self.known:
            self.known[choice.key()] = self._error(choice)
        return self.known[choice.key()]

    def _error(self, choice: Choice) -> float:
        examples = sum(batch_length(batch) for batch in self.fitted)
        form = ClosedForm(self.dense, self.forward, self.fitted, examples, seed=self.seed, rows=ROWS)
        form.without([one.block.module for one in choice.gone])
        removed = zip(self.found, choice.removed.tolist(), strict=True)
        count = {one.group.name: one.group.size - gone for one, gone in removed}
        error = self.judge(form.run(self.found, count, self.rankings).model).divergence
        return float("inf") if error is None else error


def _parted(batches: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    if len(batches) == 1:
        return list(batches), list(batches)
    examples = sum(batch_length(batch) for batch in batches)
    fitted = batches_with(batches, min(FITTED, examples / 2))
    del fitted[len(batches) - 1 :]  # one batch at least is for the others
    return fitted, batches_with(batches, JUDGED, len(fitted))


def searched(
    problem: Problem,
    blocks: Sequence[Removable],
    choose: Callable[[Problem, Sequence[Removable]], Choice],
    error: Callable[[Choice], float],
    tries: int,
    seed: int,
    progress: Progress,
) -> Factors:
    """The factors whose choice had the least ``error`` of the first and ``tries`` others."""
    best = Factors.none(problem, blocks)
    if not tries:
        return best
    random = np.random.default_rng(seed)
    first = choose(problem, blocks)
    least, seen, repeats = error(first), {first.key()}, 0
    progress.start("other counts tried", tries)
    while tries and repeats < REPEATS:
        factors = best.near(random)
        try:
            choice = choose(*factors.on(problem, blocks))
        except UserError:  # the limits may be out of a greedy allocation's reach from there
            repeats += 1
            continue
        if choice.key() in seen:
            repeats += 1
            continue
        seen.add(choice.key())
        tries, repeats = tries - 1, 0
        if (now := error(choice)) < least:
            best, least = factors, now
        progress.advance(f"least error {least:.4f}")
    return best
