"""Prune a trained network to a budget without training: from unlabelled examples, in minutes.

The whole way: trace; one pass over the data for the inputs' second moments; error-against-kept curves by
structured OBS; counts under every budget at once; units chosen and layers refitted in the order in which they run;
the plan proven on the dense network; then, if asked for, blocks learn the dense network's blocks. What a budget
means is what is counted of the result: where it is missed, the limits are tightened and the choice is made again.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of, evaluation
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import nearest
from neuroprune.budget.allocations import ALLOCATIONS, Allocation
from neuroprune.budget.calibration import doubts, example_of, length_of
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Costs, Problem, layers_of
from neuroprune.graph.calls import tensors_in
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group, Refusal
from neuroprune.pruning.allocate import build_plan, check_patterns
from neuroprune.pruning.cut import provable, prove
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification
from neuroprune.recover.distill import DistillConfig, Distilled, distill
from neuroprune.recover.obs import Ranking
from neuroprune.recover.reconstruct import ReconstructConfig, Reconstructed, reconstruct
from neuroprune.recover.refit import (
    ClosedForm,
    Consumption,
    Fitted,
    consumptions,
    dense_moments,
    rank_groups,
)
from neuroprune.recover.replay import Forward, Replay
from neuroprune.tasks.task import default_forward

Rung = Literal["none", "closed-form", "reconstruct", "distill"]
#: how often the limits are tightened when the result misses its budget
CORRECTIONS = 6


@dataclass(frozen=True)
class ToBudgetResult:
    """``model``: cut and recovered, of the user's own class, in evaluation mode. ``costs[budget]``: (dense, now,
    limit), counted. ``fitted``, ``blocks``, ``epochs``: what each rung did. ``seconds``: per stage. ``notes``:
    doubts about the data."""

    model: nn.Module
    plan: Plan
    verification: Verification
    refused: tuple[Refusal, ...]
    costs: Mapping[str, tuple[float, float, float]]
    fitted: tuple[Fitted, ...] = ()
    blocks: tuple[Reconstructed, ...] = ()
    epochs: tuple[Distilled, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prune_to_budget(
    model: nn.Module,
    batches: Sequence[Any],
    budget: Budget,
    *,
    forward: Forward = default_forward,
    recover: Rung = "closed-form",
    allocation: str = "stream",
    keep: Sequence[str] = (),
    round_to: int = 1,
    minimum: int = 1,
    seed: int = 0,
    reconstruction: ReconstructConfig | None = None,
    distillation: DistillConfig | None = None,
    progress: Progress | None = None,
) -> ToBudgetResult:
    """Make ``model`` meet ``budget`` (macs, params, size) without labels; the model given is not changed.

    >>> result = prune_to_budget(model, list(images.split(128)), Budget(macs=0.5))        # doctest: +SKIP

    ``batches``: unlabelled calibration batches as ``forward(model, batch)`` takes them; some hundred to some
    thousand examples, prepared as for the trained network. Any sequence, also one that makes its batches when
    asked (the same each time): none is kept. ``recover``: ``none`` (units are chosen, nothing is
    refitted), ``closed-form`` (least squares), ``reconstruct`` (then gradients inside each block) or ``distill``
    (then gradients through the whole network). ``allocation``: how counts are chosen (`neuroprune list
    allocations`). ``round_to``, ``minimum``: kept counts are multiples and at least so many. Deterministic for a
    seed and a number of threads.

    Raises UserError for budgets that cannot be met, unknown options, and data that cannot be used.
    """
    work = _Work(model, batches, forward, seed, progress or SilentProgress())
    work.check(budget, recover, allocation)
    with work.timed("trace"):
        found = provable(work.dense, trace(work.dense, work.setting.example), work.setting.example)
        check_patterns(found.groups, keep)
    with work.timed("statistics"):
        curves = work.curves(found, keep)
    with work.timed("allocate"):
        allowed = [_allowed(one.group, round_to, minimum) for one in curves.found]
        count = work.allocate(found, curves, budget, allowed, ALLOCATIONS.get(allocation))
    with work.timed("refit"):
        recovery = curves.form.run(curves.found, count, curves.rankings, work.progress, refit=recover != "none")
    with work.timed("prove"):
        plan = build_plan(work.dense, found, _decisions(found, recovery.kept, curves.rankings, str(budget)))
        plan, verification, refused = prove(work.dense, found, plan, work.setting.example)
        small = apply(plan, recovery.model)
    blocks: list[Reconstructed] = []
    if recover in ("reconstruct", "distill"):
        with work.timed("reconstruct"):
            config = reconstruction or ReconstructConfig(seed=seed)
            blocks = reconstruct(work.dense, small, plan, forward, work.batches, config, work.progress)
    epochs: list[Distilled] = []
    if recover == "distill":
        with work.timed("distill"):
            learning = distillation or DistillConfig(seed=seed)
            epochs = distill(work.dense, small, forward, work.batches, learning, work.progress)
    small.eval()
    return ToBudgetResult(
        small, plan, verification, found.refused + refused, work.costs(budget, small), tuple(recovery.fitted),
        tuple(blocks), tuple(epochs), work.seconds, tuple(work.notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Curves:
    """Groups whose loss can be made good, and what the removal of their units costs."""

    form: ClosedForm
    found: list[Consumption]
    rankings: dict[str, Ranking]


class _Work:
    """What the stages share."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Any], forward: Forward, seed: int, progress: Progress
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
        self.setting = Setting(self.dense, example_of(self.dense, forward, self.batches[0]), forward, self.batches)
        self.examples = sum(length_of(batch) for batch in self.batches)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def check(self, budget: Budget, recover: str, allocation: str) -> None:
        if recover not in get_args(Rung):
            guess = nearest(recover, get_args(Rung))
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(f"unknown recover {recover!r}", mend=f"{hint}use one of {', '.join(get_args(Rung))}")
        if not budget.limits:
            raise UserError("the budget is empty", value=budget, mend="write Budget(macs=0.5)")
        ALLOCATIONS.get(allocation)
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
        """Per budget: dense, now, limit, the first two of one run."""
        found = {}
        for limit in budget.limits:
            figures = KINDS.get(limit.kind).figures({"dense": self.dense, "now": small}, self.setting)
            found[limit.kind] = (figures["dense"], figures["now"], limit.absolute(figures["dense"]))
        return found

    def curves(self, found: Trace, keep: Sequence[str]) -> _Curves:
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
        return _Curves(form, ours, rank_groups(self.dense, ours, form.sites, moments))

    def allocate(
        self,
        found: Trace,
        curves: _Curves,
        budget: Budget,
        allowed: Sequence[Sequence[int]],
        allocation: Allocation,
    ) -> dict[str, int]:
        """Kept counts of the groups whose cut network costs what every limit allows.

        Layers' costs are a model of the network's; where the cut network costs more than its limit, the limit is
        lowered by as much and the choice made again.
        """
        groups = [one.group for one in curves.found]
        errors = [curves.rankings[group.name].errors for group in groups]
        costs, limits = self._costs(groups, budget)
        targets = dict(limits)
        for _ in range(CORRECTIONS):
            removed = allocation(Problem(groups, errors, costs, targets, allowed))
            kept = {
                group.name: tuple(sorted(curves.rankings[group.name].order[n:].tolist()))
                for group, n in zip(groups, removed.tolist(), strict=True)
            }
            plan = build_plan(self.dense, found, _decisions(found, kept, curves.rankings, ""))
            small = apply(plan, copy.deepcopy(self.dense))
            over = {kind: now / limit for kind, (_, now, limit) in self.costs(budget, small).items()}
            if max(over.values()) <= 1:
                return {d.group: len(d.kept) for d in plan.decisions}
            targets = {kind: targets[kind] * min(1.0, 0.999 / over[kind]) for kind in targets}
        raise UserError(
            "the budget is still missed after several corrections",
            value=", ".join(f"{kind} {value:.3f} times its limit" for kind, value in over.items()),
            mend="raise the budget, or lower round_to and minimum",
        )

    def _costs(self, groups: Sequence[Group], budget: Budget) -> tuple[Costs, dict[str, float]]:
        """What layers cost, and the limits, per kind of budget."""
        layers = layers_of(self.dense, groups)
        each, fixed, limits = {}, {}, {}
        for limit in budget.limits:
            kind = KINDS.get(limit.kind)
            each[limit.kind] = kind.layers(layers, self.setting)
            dense = kind.figures({"dense": self.dense}, self.setting)["dense"]
            fixed[limit.kind] = dense - sum(one(1.0, 1.0) for one in each[limit.kind])
            limits[limit.kind] = limit.absolute(dense)
        return Costs(layers, each, fixed), limits


def _allowed(group: Group, round_to: int, minimum: int) -> list[int]:
    """How many units may go: what is kept is a multiple of ``round_to`` and at least ``minimum``."""
    least = min(max(minimum, 1), group.size)
    kept = [group.size, *(k for k in range(group.size - 1, least - 1, -1) if k % round_to == 0)]
    return [group.size - k for k in kept]


def _decisions(
    found: Trace, kept: Mapping[str, Sequence[int]], rankings: Mapping[str, Ranking], constraint: str
) -> list[GroupDecision]:
    decisions = []
    for group in found.groups:
        stays = tuple(kept.get(group.name, range(group.size)))
        gone = tuple(i for i in range(group.size) if i not in set(stays))
        scores = rankings[group.name].scores() if group.name in rankings else np.ones(group.size)
        reason = "least error of what consumes it" if gone else "stays whole"
        threshold = float(scores[list(stays)].min()) if gone else float("-inf")
        decisions.append(
            GroupDecision(group.name, "obs", stays, gone, tuple(map(float, scores)), threshold, reason, constraint)
        )
    return decisions
