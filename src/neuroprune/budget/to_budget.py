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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.base.modes import copy_of, evaluation
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import nearest
from neuroprune.budget.allocations import ALLOCATIONS, Allocation
from neuroprune.budget.calibration import doubts, example_of, length_of
from neuroprune.budget.curves import Sensitivity
from neuroprune.budget.depth import Choice, Removable, choose, least, removable_blocks
from neuroprune.budget.evidence import Evidence, curves_from
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Costs, Problem, layers_of
from neuroprune.budget.steering import Steering
from neuroprune.budget.target import RoundTo, Target, multiple_for
from neuroprune.graph.calls import tensors_in
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group, Refusal
from neuroprune.pruning.allocate import build_plan, check_patterns
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.cut import provable, prove
from neuroprune.pruning.depth import with_blocks
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify
from neuroprune.recover.distill import DistillConfig, Distilled, distill
from neuroprune.recover.layout import channels_innermost, channels_outermost
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
#: told each rung and the network after it
After = Callable[[Rung, nn.Module], None]
#: how many candidates are measured at most until one meets the budget and uses it up
CORRECTIONS = 6


@dataclass(frozen=True)
class ToBudgetResult:
    """``model``: cut and recovered, of the user's own class, in evaluation mode. ``costs[budget]``: (dense, now,
    limit) of the result, from one measurement at the end. ``fitted``, ``blocks``, ``epochs``: what each rung did.
    ``seconds``: per stage. ``notes``: doubts about the data."""

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
    sensitivity: Sensitivity | Path | str | None = None,
    depth: bool = True,
    keep: Sequence[str] = (),
    round_to: RoundTo = "auto",
    minimum: int = 1,
    target: Target | None = None,
    seed: int = 0,
    reconstruction: ReconstructConfig | None = None,
    distillation: DistillConfig | None = None,
    more: Sequence[Any] | None = None,
    after: After | None = None,
    progress: Progress | None = None,
) -> ToBudgetResult:
    """Make ``model`` meet ``budget`` (`neuroprune list budgets`) without labels; the model given is not changed.

    >>> result = prune_to_budget(model, list(images.split(128)), Budget(macs=0.5))        # doctest: +SKIP

    ``batches``: unlabelled calibration batches as ``forward(model, batch)`` takes them; some hundred to some
    thousand examples, prepared as for the trained network. ``recover``: ``none`` (units are chosen, nothing is
    refitted), ``closed-form`` (least squares), ``reconstruct`` (then gradients inside windows of a few blocks) or
    ``distill`` (then gradients through the whole network). ``more``: unlabelled batches for the last, which may be
    made when asked for (default: ``batches``). ``after(rung, network)`` is shown the network after each rung, cut
    and in evaluation mode. ``allocation``: how counts are chosen (`neuroprune list allocations`); ``sensitivity``:
    curves, or the file with them, for ``allocation="sensitivity"``, which measures them where none are given.
    ``depth``: whole blocks may go where that costs less than channels. ``round_to``, ``minimum``: kept counts are
    multiples and at least so many; ``auto`` takes what the runtime's kernels compute in blocks where latency is
    limited, else 1. ``target``: device, threads and precision that measured budgets are about. Deterministic for a
    seed and a number of threads where figures are counted.

    Raises UserError for budgets that cannot be met, unknown options, and data that cannot be used.
    """
    work = _Work(model, batches, forward, seed, progress or SilentProgress(), target or Target())
    work.check(budget, recover, allocation)
    measured = curves_from(sensitivity)
    with work.timed("trace"):
        found = provable(work.dense, trace(work.dense, work.setting.example), work.setting.example)
        check_patterns(found.groups, keep)
        removable = removable_blocks(work.setting, keep, seed) if depth else []
    with work.timed("statistics"):
        curves = work.curves(found, keep)
    with work.timed("allocate"):
        multiples = [work.multiple(one.group, budget, round_to) for one in curves.found]
        allowed = [_allowed(one.group, n, minimum) for one, n in zip(curves.found, multiples, strict=True)]
        count, gone = work.allocate(
            found, curves, removable, budget, allowed, ALLOCATIONS.get(allocation), measured
        )
    with work.timed("refit"):
        curves.form.without([one.block.module for one in gone])
        recovery = curves.form.run(curves.found, count, curves.rankings, work.progress, refit=recover != "none")
    with work.timed("prove"):
        plan = build_plan(work.dense, found, _decisions(found, recovery.kept, curves.rankings, str(budget)))
        plan, _, refused = prove(work.dense, found, plan, work.setting.example)
        plan = _with_depth(plan, removable, gone, str(budget))
        verification = verify(work.dense, plan, work.setting.example, found=found)
        if not verification.exact:
            raise CutRefused(verification.problem, where=verification.where or None)
        small = apply(plan, recovery.model)
    tell = after or (lambda rung, network: None)
    tell("none" if recover == "none" else "closed-form", small.eval())
    blocks: list[Reconstructed] = []
    if recover in ("reconstruct", "distill"):
        with work.timed("reconstruct"):
            config = reconstruction or ReconstructConfig(seed=seed)
            blocks = reconstruct(work.dense, small, plan, forward, work.batches, config, work.progress)
        tell("reconstruct", small.eval())
    epochs: list[Distilled] = []
    if recover == "distill":
        with work.timed("distill"):
            learning = distillation or DistillConfig(seed=seed)
            epochs = distill(work.dense, small, plan, forward, more or work.batches, learning, work.progress)
        tell("distill", small.eval())
    channels_outermost(small.eval())
    with work.timed("measure"):
        costs = work.final(budget, small)
    return ToBudgetResult(
        small, plan, verification, found.refused + refused, costs, tuple(recovery.fitted),
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
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Forward,
        seed: int,
        progress: Progress,
        target: Target,
    ) -> None:
        self.dense, self.batches, self.forward = copy_of(model).eval(), list(batches), forward
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
        return multiple_for(group, kinds, self.setting.target.precision) if round_to == "auto" else round_to

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
        removable: Sequence[Removable],
        budget: Budget,
        allowed: Sequence[Sequence[int]],
        allocation: Allocation,
        measured: Sensitivity | None = None,
    ) -> tuple[dict[str, int], tuple[Removable, ...]]:
        """Kept counts of the groups, and blocks that go, whose cut network costs what every limit allows.

        Layers' costs are a model of the network's; what is asked of the model follows the measurements.
        """
        groups = [one.group for one in curves.found]
        errors = [curves.rankings[group.name].errors for group in groups]
        costs, limits = self._costs(groups, removable, budget)
        orders = [curves.rankings[group.name].order for group in groups]
        known = Evidence(
            self.dense, found, groups, orders, self.forward, self.batches, self.seed, self.progress, measured
        )
        problem = Problem(groups, errors, costs, limits, allowed, known)
        noise = {kind: KINDS.get(kind).noise for kind in limits}
        steering = Steering(limits, noise, least(problem, removable, allocation))
        for _ in range(CORRECTIONS):
            choice = choose(replace(problem, limits=steering.targets), removable, allocation)
            if steering.known(choice):
                break
            figures = self.costs(budget, self._candidate(found, curves, choice))
            if steering.saw(choice, {kind: now / limit for kind, (_, now, limit) in figures.items()}):
                break
        if steering.best is None:
            raise steering.unmet(budget)
        self.notes += known.unused()
        gone = dict(zip([group.name for group in groups], steering.best.removed.tolist(), strict=True))
        count = {group.name: group.size - gone.get(group.name, 0) for group in found.groups}
        return count, steering.best.gone

    def _candidate(self, found: Trace, curves: _Curves, choice: Choice) -> nn.Module:
        """The dense network without the units and blocks of ``choice``, as it costs; not recovered."""
        kept = {
            one.group.name: tuple(sorted(curves.rankings[one.group.name].order[n:].tolist()))
            for one, n in zip(curves.found, choice.removed.tolist(), strict=True)
        }
        plan = build_plan(self.dense, found, _decisions(found, kept, curves.rankings, ""))
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


def _with_depth(plan: Plan, removable: Sequence[Removable], gone: Sequence[Removable], constraint: str) -> Plan:
    """``plan`` with the blocks that go, and a decision for each that could."""
    decisions = [
        GroupDecision(
            f"block:{one.block.module}", "stream_error", () if one in gone else (0,), (0,) if one in gone else (),
            (one.error,), float(np.nextafter(one.error, 1.0 + one.error)) if one in gone else 0.0,
            "costs less than the channels that would have to go" if one in gone else "stays", constraint,
        )
        for one in removable
    ]  # fmt: skip
    plan = with_blocks(plan, [one.block for one in gone])
    return replace(plan, decisions=(*plan.decisions, *decisions))


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
        threshold = float(scores[list(stays)].min()) if gone else 0.0  # no score is below
        decisions.append(
            GroupDecision(group.name, "obs", stays, gone, tuple(map(float, scores)), threshold, reason, constraint)
        )
    return decisions
