"""Prune a trained network to a budget without training: from unlabelled examples, in minutes.

The whole way: trace; one pass over the data for the inputs' second moments; error-against-kept curves by
structured OBS; counts under every budget at once; units chosen and layers refitted in the order in which they run;
the plan proven on the dense network; then, if asked for, blocks learn the dense network's blocks. What a budget
means is what is counted of the result: where it is missed, the limits are tightened and the choice is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import nearest
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.curves import Sensitivity
from neuroprune.budget.decide import allowed_removals, decisions_of, with_depth
from neuroprune.budget.depth import Removable, removable_blocks, weighted
from neuroprune.budget.evidence import curves_from
from neuroprune.budget.target import RoundTo, Target
from neuroprune.budget.work import Work
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Refusal
from neuroprune.pruning.allocate import build_plan, check_patterns
from neuroprune.pruning.cut import provable, prove
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify
from neuroprune.recover.distill import DistillConfig, Distilled, distill
from neuroprune.recover.layout import channels_outermost
from neuroprune.recover.reconstruct import ReconstructConfig, Reconstructed, reconstruct
from neuroprune.recover.refit import Fitted, place_weights
from neuroprune.recover.replay import Forward
from neuroprune.tasks.task import default_forward

Rung = Literal["none", "closed-form", "reconstruct", "distill"]
#: told each rung and the network after it
After = Callable[[Rung, nn.Module], None]


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
    allocation: str | Sequence[str] = "stream",
    sensitivity: Sensitivity | Path | str | None = None,
    depth: bool = True,
    tries: int = 0,
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
    thousand examples, prepared as for the trained network; any sequence, also one that makes its
    batches when asked (the same each time): none is kept. ``recover``: ``none`` (units are chosen, nothing is
    refitted), ``closed-form`` (least squares), ``reconstruct`` (then gradients inside windows of a few blocks) or
    ``distill`` (then gradients through the whole network). ``more``: unlabelled batches for the last, which may be
    made when asked for (default: ``batches``). ``after(rung, network)`` is shown the network after each rung, cut
    and in evaluation mode. ``allocation``: how counts are chosen (`neuroprune list allocations`); of several
    names that one is taken whose choice does best on trial. ``tries``: so many other choices of counts and blocks
    are tried from there; a trial is a refit on a few hundred of the examples, compared on others.
    ``sensitivity``: curves, or the file with them, for ``allocation="sensitivity"``, which measures them where
    none are given. ``depth``: whole blocks may go where that costs less than channels. ``round_to``, ``minimum``:
    kept counts are multiples and at least so many; ``auto`` takes what the runtime's kernels compute in blocks
    where latency is limited, else 1. ``target``: device, threads and precision that measured budgets are about.
    Deterministic for a seed and a number of threads where figures are counted.

    Raises UserError for budgets that cannot be met, unknown options, and data that cannot be used.
    """
    work = Work(model, batches, forward, seed, progress or SilentProgress(), target or Target())
    _check_rung(recover)
    if tries < 0:
        raise UserError("tries is negative", value=tries, mend="give 0 or more")
    names = [allocation] if isinstance(allocation, str) else list(allocation)
    work.check(budget, names)
    measured = curves_from(sensitivity)
    with work.timed("trace"):
        found = provable(work.dense, trace(work.dense, work.setting.example), work.setting.example)
        check_patterns(found.groups, keep)
        removable = removable_blocks(work.setting, keep, seed) if depth else []
    with work.timed("statistics"):
        curves = work.curves(found, keep)
        removable = weighted(removable, place_weights(curves.form.sites))
    with work.timed("allocate"):
        multiples = [work.multiple(one.group, budget, round_to) for one in curves.found]
        allowed = [allowed_removals(one.group, n, minimum) for one, n in zip(curves.found, multiples, strict=True)]
        count, gone = work.allocate(
            found, curves, removable, budget, allowed, {n: ALLOCATIONS.get(n) for n in names}, measured, tries
        )
    with work.timed("refit"):
        curves.form.without([one.block.module for one in gone])
        recovery = curves.form.run(curves.found, count, curves.rankings, work.progress, refit=recover != "none")
    with work.timed("prove"):
        decisions = decisions_of(found, recovery.kept, curves.rankings, str(budget))
        plan, verification, refused = _proven(work, found, decisions, removable, gone, str(budget))
        small = apply(plan, recovery.model)
    tell = after or (lambda rung, network: None)
    tell("none" if recover == "none" else "closed-form", small.eval())
    learning = reconstruction or ReconstructConfig(seed=seed), distillation or DistillConfig(seed=seed)
    blocks, epochs = _learnt(work, small, plan, recover, learning, more or work.batches, tell)
    channels_outermost(small.eval())
    with work.timed("measure"):
        costs = work.final(budget, small)
    return ToBudgetResult(
        small, plan, verification, found.refused + refused, costs, tuple(recovery.fitted),
        tuple(blocks), tuple(epochs), work.seconds, tuple(work.notes),
    )  # fmt: skip


def _proven(
    work: Work,
    found: Trace,
    decisions: Sequence[GroupDecision],
    removable: Sequence[Removable],
    gone: Sequence[Removable],
    constraint: str,
) -> tuple[Plan, Verification, tuple[Refusal, ...]]:
    """Units and blocks in one plan, proven on the dense network. Raises CutRefused where it is not equal."""
    plan = build_plan(work.dense, found, decisions)
    plan, verification, refused = prove(work.dense, found, plan, work.setting.example)
    plan = with_depth(plan, removable, gone, constraint)
    if gone:
        verification = verify(work.dense, plan, work.setting.example, found=found)
    if not verification.exact:
        raise CutRefused(verification.problem, where=verification.where or None)
    return plan, verification, refused


def _learnt(
    work: Work,
    small: nn.Module,
    plan: Plan,
    recover: Rung,
    learning: tuple[ReconstructConfig, DistillConfig],
    more: Sequence[Any],
    tell: After,
) -> tuple[list[Reconstructed], list[Distilled]]:
    """The rungs with gradients up to ``recover``, on ``small`` in place."""
    blocks: list[Reconstructed] = []
    epochs: list[Distilled] = []
    if recover in ("reconstruct", "distill"):
        with work.timed("reconstruct"):
            blocks = reconstruct(work.dense, small, plan, work.forward, work.batches, learning[0], work.progress)
        tell("reconstruct", small.eval())
    if recover == "distill":
        with work.timed("distill"):
            epochs = distill(work.dense, small, plan, work.forward, more, learning[1], work.progress)
        tell("distill", small.eval())
    return blocks, epochs


def _check_rung(recover: str) -> None:
    if recover not in get_args(Rung):
        guess = nearest(recover, get_args(Rung))
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"unknown recover {recover!r}", mend=f"{hint}use one of {', '.join(get_args(Rung))}")
