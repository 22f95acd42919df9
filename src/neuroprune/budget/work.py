"""What the stages of `prune_to_budget` share: the network, its examples, curves of errors, costs, the choice."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of, evaluation
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress
from neuroprune.budget.allocations import ALLOCATIONS, Allocation
from neuroprune.budget.calibration import doubts, example_of
from neuroprune.budget.curves import Sensitivity
from neuroprune.budget.decide import decisions_of
from neuroprune.budget.depth import Choice, Removable, choose, least
from neuroprune.budget.evidence import Evidence
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Costs, Problem, layers_of
from neuroprune.budget.steering import Steering
from neuroprune.budget.target import RoundTo, Target, multiple_for
from neuroprune.budget.trials import Trials, searched
from neuroprune.graph.calls import tensors_in
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group
from neuroprune.pruning.allocate import build_plan
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.depth import with_blocks
from neuroprune.pruning.surgery import apply
from neuroprune.recover.layout import channels_innermost
from neuroprune.recover.moments import Moments
from neuroprune.recover.obs import Ranking
from neuroprune.recover.refit import (
    ClosedForm,
    Consumption,
    consumptions,
    dense_moments,
    rank_groups,
)
from neuroprune.recover.replay import Forward, Replay
from neuroprune.tasks.batches import batch_length

#: how many candidates are measured at most until one meets the budget and uses it up
CORRECTIONS = 6


@dataclass(frozen=True)
class Curves:
    """Groups whose loss can be made good, and what the removal of their units costs."""

    form: ClosedForm
    found: list[Consumption]
    rankings: dict[str, Ranking]


def too_few(moments: Mapping[str, Moments]) -> list[str]:
    """A note where layers see fewer positions than they have columns: a refit then fits chance as well."""
    thin = [name for name, found in moments.items() if found.rows < found.xx.shape[1]]
    if not thin:
        return []
    return [
        f"{len(thin)} of {len(moments)} layers see fewer positions on these examples than they have columns "
        f"({thin[0]}: {moments[thin[0]].rows} of {moments[thin[0]].xx.shape[1]}): give more examples"
    ]


class Work:
    """What the stages share."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Forward,
        seed: int,
        progress: Progress,
        target: Target,
    ) -> None:
        self.dense, self.forward = copy_of(model).eval(), forward
        self.batches = batches if isinstance(batches, Sequence) else list(batches)
        self.seed, self.progress = seed, progress
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        if not self.batches:
            raise UserError(
                "there is nothing to calibrate on", value="no batches", mend="give some hundred examples"
            )
        channels_innermost(self.dense, forward, self.batches[0])
        example = example_of(self.dense, forward, self.batches[0])
        self.setting = Setting(self.dense, example, forward, self.batches, target, progress)
        self.examples = sum(batch_length(batch) for batch in self.batches)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def check(self, budget: Budget, allocations: Sequence[str]) -> None:
        if not budget.limits:
            raise UserError("the budget is empty", value=budget, mend="write Budget(macs=0.5)")
        if not allocations:
            raise UserError("no allocation is named", mend="see `neuroprune list allocations`")
        for allocation in allocations:
            ALLOCATIONS.get(allocation)
        self.setting.target.check()
        for limit in budget.limits:
            KINDS.get(limit.kind)
        with evaluation(self.dense):
            output = self.forward(self.dense, self.batches[0])
        for tensor in tensors_in(output):
            if not bool(tensor.isfinite().all()):
                raise UserError(
                    "the dense network's output on the calibration data is not finite",
                    where="the first batch", mend="check the data and the weights for NaN",
                )  # fmt: skip
        self.notes += doubts(output)

    def costs(self, budget: Budget, small: nn.Module) -> dict[str, tuple[float, float, float]]:
        """Per budget: dense (fp32), now (in the target's precision), limit, the first two of one run."""
        found = {}
        both = {"dense": Variant(self.dense), "now": Variant(small, self.setting.target.precision)}
        for limit in budget.limits:
            figures = KINDS.get(limit.kind).figures(both, self.setting)
            found[limit.kind] = (figures["dense"], figures["now"], limit.absolute(figures["dense"]))
        return found

    def final(self, budget: Budget, small: nn.Module) -> dict[str, tuple[float, float, float]]:
        """``costs`` of the result. It was under its limits by the noise of a measurement before it was recovered;
        where one is missed all the same, a second measurement counts, and what that says is noted."""
        costs = self.costs(budget, small)
        if any(now > limit for _, now, limit in costs.values()):
            costs = self.costs(budget, small)
        self.notes += [
            f"{kind} came out at {now / limit:.3f} times its limit at the end, twice: groups stayed whole in the "
            "proof, or the machine is busy"
            for kind, (_, now, limit) in costs.items()
            if now > limit
        ]
        return costs

    def multiple(self, group: Group, budget: Budget, round_to: RoundTo) -> int:
        kinds = {limit.kind for limit in budget.limits}
        target = self.setting.target
        return multiple_for(group, kinds, target.precision, target.device) if round_to == "auto" else round_to

    def curves(self, found: Trace, keep: Sequence[str]) -> Curves:
        form = ClosedForm(self.dense, self.forward, self.batches, self.examples, seed=self.seed)
        groups = [group for group in found.groups if not group.matches(keep)]
        ours = consumptions(self.dense, groups, form.sites)
        if not ours:
            raise UserError(
                "nothing in this network can be removed and made good",
                value=f"{len(found.groups)} groups, {len(found.refused)} refused dimensions",
                mend="see `neuroprune inspect`; for networks without linear or convolutional consumers use prune",
            )
        used = {name for one in ours for name in one.columns}
        sites = [site for site in form.sites if site.layer in used]
        replay = Replay(self.dense, self.forward, self.batches, remember=False)
        moments = dense_moments(replay, sites, self.examples, self.seed)
        self.notes += too_few(moments)
        return Curves(form, ours, rank_groups(self.dense, ours, form.sites, moments))

    def allocate(
        self,
        found: Trace,
        curves: Curves,
        removable: Sequence[Removable],
        budget: Budget,
        allowed: Sequence[Sequence[int]],
        allocations: Mapping[str, Allocation],
        measured: Sensitivity | None = None,
        tries: int = 0,
    ) -> tuple[dict[str, int], tuple[Removable, ...]]:
        """Kept counts of the groups, and blocks that go, whose cut network costs what every limit allows.

        ``allocations``: of several that is taken whose choice is best on trial; ``tries``: other choices to try
        from there (`trials.py`).
        """
        groups = [one.group for one in curves.found]
        errors = [curves.rankings[group.name].errors for group in groups]
        costs, limits = self._costs(groups, removable, budget)
        orders = [curves.rankings[group.name].order for group in groups]
        known = Evidence(
            self.dense, found, groups, orders, self.forward, self.batches, self.seed, self.progress, measured
        )
        problem = Problem(groups, errors, costs, limits, allowed, known)
        best = self._best(problem, removable, budget, allocations, found, curves, tries)
        self.notes += known.unused()
        removed = dict(zip([group.name for group in groups], best.removed.tolist(), strict=True))
        count = {group.name: group.size - removed.get(group.name, 0) for group in found.groups}
        gone = {one.block.module for one in best.gone}
        return count, tuple(one for one in removable if one.block.module in gone)

    def _best(
        self,
        problem: Problem,
        removable: Sequence[Removable],
        budget: Budget,
        allocations: Mapping[str, Allocation],
        found: Trace,
        curves: Curves,
        tries: int,
    ) -> Choice:
        starts, missed = {}, None
        for name, one in allocations.items():
            try:
                starts[name] = self._steered(problem, removable, budget, one, found, curves)
            except UserError as error:
                missed = error
        if not starts and missed is not None:
            raise missed
        if len(starts) == 1 and not tries:
            return next(iter(starts.values()))[0]
        trials = Trials(self.dense, self.forward, self.batches, curves.found, curves.rankings, self.seed)
        errors = {name: trials.error(choice) for name, (choice, _) in starts.items()}
        first = min(errors, key=errors.__getitem__)
        if len(starts) > 1:
            told = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
            self.notes.append(f"counts by {first!r}: least error of the outputs on trial ({told})")
        (choice, targets), allocation = starts[first], allocations[first]
        asked = replace(problem, limits=targets)
        factors = searched(
            asked, removable, lambda p, blocks: choose(p, blocks, allocation), trials.error, tries, self.seed,
            self.progress,
        )  # fmt: skip
        if not factors.changed:
            return choice
        return self._steered(*factors.on(problem, removable), budget, allocation, found, curves)[0]

    def _steered(
        self,
        problem: Problem,
        removable: Sequence[Removable],
        budget: Budget,
        allocation: Allocation,
        found: Trace,
        curves: Curves,
    ) -> tuple[Choice, Mapping[str, float]]:
        """The choice whose cut network keeps to every limit, and what the model of costs was asked for at last.

        Layers' costs are a model of the network's; what is asked of the model follows the measurements.
        """
        noise = {kind: KINDS.get(kind).noise for kind in problem.limits}
        steering = Steering(problem.limits, noise, least(problem, removable, allocation))
        for _ in range(CORRECTIONS):
            choice = choose(replace(problem, limits=steering.targets), removable, allocation)
            if steering.known(choice):
                break
            figures = self.costs(budget, self._candidate(found, curves, choice))
            if steering.saw(choice, {kind: now / limit for kind, (_, now, limit) in figures.items()}):
                break
        if steering.best is None:
            raise steering.unmet(budget)
        return steering.best, dict(steering.targets)

    def _candidate(self, found: Trace, curves: Curves, choice: Choice) -> nn.Module:
        """The dense network without the units and blocks of ``choice``, as it costs; not recovered."""
        kept = {
            one.group.name: tuple(sorted(curves.rankings[one.group.name].order[n:].tolist()))
            for one, n in zip(curves.found, choice.removed.tolist(), strict=True)
        }
        plan = build_plan(self.dense, found, decisions_of(found, kept, curves.rankings, ""))
        return apply(with_blocks(plan, [one.block for one in choice.gone]), copy.deepcopy(self.dense))

    def _costs(
        self, groups: Sequence[Group], removable: Sequence[Removable], budget: Budget
    ) -> tuple[Costs, dict[str, float]]:
        """What layers cost, and the limits, per kind of budget."""
        blocks = [one.block.module for one in removable]
        layers = layers_of(
            self.dense,
            groups,
            [n for n, p in self.dense.named_parameters() if p.dim() > 1 and is_inside(n, blocks)],
        )
        each, fixed, limits = {}, {}, {}
        for limit in budget.limits:
            kind = KINDS.get(limit.kind)
            each[limit.kind] = kind.layers(layers, self.setting)
            both = {"dense": Variant(self.dense), "whole": Variant(self.dense, self.setting.target.precision)}
            figures = kind.figures(both, self.setting)
            fixed[limit.kind] = max(figures["whole"] - sum(one(1.0, 1.0) for one in each[limit.kind]), 0.0)
            limits[limit.kind] = limit.absolute(figures["dense"])
        return Costs(layers, each, fixed), limits
