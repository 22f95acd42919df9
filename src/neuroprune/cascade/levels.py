"""Nested networks: the largest is cut out of the dense network, each smaller one out of the next larger one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

from torch import nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.base.modes import copy_of
from neuroprune.base.nouns import Budget, Cost
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.budget.calibration import example_of
from neuroprune.budget.kinds import KINDS
from neuroprune.budget.target import Target
from neuroprune.budget.to_budget import Rung, prune_to_budget
from neuroprune.cascade.nested import check_nested, composed
from neuroprune.graph.cost import cost
from neuroprune.pruning.plan import Plan, fingerprint
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify
from neuroprune.recover.distill import DistillConfig, distill
from neuroprune.recover.layout import channels_innermost, channels_outermost
from neuroprune.recover.reconstruct import ReconstructConfig, reconstruct
from neuroprune.recover.replay import Forward
from neuroprune.tasks.task import default_forward

#: every path through the levels is looked at (2^n - 1 of them), and each level is another file on the device
MOST = 5


@dataclass(frozen=True)
class LevelOptions:
    """How levels are cut and recovered: see `neuroprune.prune_to_budget` for all but ``kind``, which names the
    budget that the shares are of (`neuroprune list budgets`)."""

    kind: str = "macs"
    recover: Rung = "closed-form"
    allocation: str | Sequence[str] = "stream"
    tries: int = 0
    keep: Sequence[str] = ()
    depth: bool = True
    seed: int = 0
    target: Target = field(default_factory=Target)
    reconstruction: ReconstructConfig | None = None
    distillation: DistillConfig | None = None

    def check(self) -> None:
        """Raises UserError for a budget or a recovery that there is not."""
        KINDS.get(self.kind)
        if self.recover not in get_args(Rung):
            raise UserError(f"unknown recover {self.recover!r}", mend=f"use one of {', '.join(get_args(Rung))}")


@dataclass(frozen=True)
class Level:
    """One network of a cascade: ``model`` is the dense network cut by ``plan``, with weights of its own.

    ``share``: of the dense network's cost, as asked; ``verification``: of ``plan`` on the dense network.
    """

    share: float
    model: nn.Module
    plan: Plan
    verification: Verification
    cost: Cost


def nested_levels(
    model: nn.Module,
    batches: Sequence[Any],
    shares: Sequence[float],
    options: LevelOptions | None = None,
    *,
    forward: Forward = default_forward,
    more: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> list[Level]:
    """Networks of ``shares`` of the dense network's cost, the smallest first; ``model`` is not changed.

    >>> levels = nested_levels(model, list(images.split(128)), (0.15, 0.4, 1))         # doctest: +SKIP

    The units that a level keeps are among those that the next larger one keeps; its weights are its own, refitted
    without labels on ``batches``. Gradients, where ``recover`` asks for them, take the *dense* network as teacher
    at every level; ``more``: batches for distillation. The share 1 is the dense network itself.

    Raises UserError for shares that are no list of ascending numbers above 0 and up to 1, and as
    `prune_to_budget` does.
    """
    options, progress = options or LevelOptions(), progress or SilentProgress()
    options.check()
    check_shares(shares)
    return _Cutter(model, batches, options, forward, more, progress).levels(shares)


def check_shares(shares: Sequence[float]) -> None:
    rising = all(a < b for a, b in pairwise(shares))
    if not 2 <= len(shares) <= MOST or not rising or not all(0 < share <= 1 for share in shares):
        raise UserError(
            "these are no levels",
            where="levels",
            value=", ".join(f"{share:g}" for share in shares) or "none",
            mend=f"write two to {MOST} ascending shares of the dense network's cost, each above 0 and at most 1: "
            "0.15,0.4,1",
        )


class _Cutter:
    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        options: LevelOptions,
        forward: Forward,
        more: Sequence[Any] | None,
        progress: Progress,
    ) -> None:
        if not len(batches):
            raise UserError(
                "there is nothing to calibrate on", value="no batches", mend="give some hundred examples"
            )
        self.dense, self.batches, self.options = copy_of(model).eval(), batches, options
        self.forward, self.more, self.progress = forward, more or batches, progress
        channels_innermost(self.dense, forward, batches[0])
        self.example = example_of(self.dense, forward, batches[0])

    def levels(self, shares: Sequence[float]) -> list[Level]:
        whole = channels_outermost(copy.deepcopy(self.dense))
        plan, left = Plan.identity(self.dense), 1.0  # share of the dense network's cost that the last level has
        found = [self._level(1.0, whole, plan)]
        for share in sorted(shares, reverse=True):
            if share == 1:
                continue
            small, plan, left = self._cut(found[0], share, left)
            found.insert(0, self._level(share, small, plan))
        check_nested([level.plan for level in found])
        return found if shares[-1] == 1 else found[:-1]

    def _cut(self, larger: Level, share: float, left: float) -> tuple[nn.Module, Plan, float]:
        """The next smaller network, its plan on the dense one, and its share of the dense one's cost."""
        options = self.options
        if share >= left:
            raise UserError(
                "a level came out smaller than the next one was asked to be",
                where=f"levels {larger.share:g} and {share:g}", value=f"{left:.3f}", mend="set them further apart",
            )  # fmt: skip
        rung: Rung = "none" if options.recover == "none" else "closed-form"
        result = prune_to_budget(
            larger.model, self.batches, Budget(**{options.kind: share / left}), forward=self.forward, recover=rung,
            allocation=options.allocation, tries=options.tries, keep=options.keep, depth=options.depth,
            target=options.target, seed=options.seed, progress=self.progress,
        )  # fmt: skip
        plan = composed(larger.plan, result.plan, self.dense)
        self._learn(result.model, plan)
        dense, now, _ = result.costs[options.kind]
        return result.model, plan, left * now / dense

    def _learn(self, small: nn.Module, plan: Plan) -> None:
        """The rungs with gradients, in place."""
        options = self.options
        if options.recover not in ("reconstruct", "distill"):
            return
        channels_innermost(small, self.forward, self.batches[0])
        config = options.reconstruction or ReconstructConfig(seed=options.seed)
        reconstruct(self.dense, small, plan, self.forward, self.batches, config, self.progress)
        if options.recover == "distill":
            last = options.distillation or DistillConfig(seed=options.seed)
            distill(self.dense, small, plan, self.forward, self.more, last, self.progress)
        channels_outermost(small.eval())

    def _level(self, share: float, small: nn.Module, plan: Plan) -> Level:
        if fingerprint(apply(plan, copy.deepcopy(self.dense))) != fingerprint(small):
            raise CutRefused(f"level {share:g}: the plan does not give the network that was cut")
        proof = verify(self.dense, plan, self.example)
        if not proof.exact:
            raise CutRefused(f"level {share:g}: {proof.problem}", where=proof.where or None)
        return Level(share, small, plan, proof, cost(small, self.example))
