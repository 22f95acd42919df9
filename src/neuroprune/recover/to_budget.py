"""Prune a trained network to a budget without training: from unlabelled examples, in minutes.

The whole way: trace; one pass over the data for the inputs' second moments; error-against-kept curves by
structured OBS; counts under every budget at once; units chosen and layers refitted in the order in which they run;
the plan proven on the dense network; then, if asked for, blocks learn the dense network's blocks. What a budget
means is what is counted of the result: where it is missed, the limits are tightened and the choice is made again.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of, evaluation
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.base.registry import nearest
from neuroprune.graph.calls import map_tensors, tensors_in
from neuroprune.graph.cost import cost
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group, Refusal
from neuroprune.pruning.allocate import build_plan, check_patterns
from neuroprune.pruning.cut import provable, prove
from neuroprune.pruning.plan import GroupDecision, Plan
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification
from neuroprune.recover.allocation import Costs, choose_counts, layers_of, proportional
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
#: what is counted of the result for each budget
COUNTED: dict[str, Callable[[nn.Module, Any], float]] = {
    "macs": lambda model, inputs: float(cost(model, inputs).macs),
    "params": lambda model, inputs: float(cost(model, inputs).params),
    "size": lambda model, inputs: float(cost(model, inputs).weight_bytes),
}


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
    thousand examples, prepared as for the trained network. ``recover``: ``none`` (units are chosen, nothing is
    refitted), ``closed-form`` (least squares), ``reconstruct`` (then gradients inside each block) or ``distill``
    (then gradients through the whole network). ``round_to``,
    ``minimum``: kept counts are multiples and at least so many. Deterministic for a seed and a number of threads.

    Raises UserError for budgets that cannot be met, unknown options, and data that cannot be used.
    """
    work = _Work(model, batches, forward, seed, progress or SilentProgress())
    work.check(budget, recover)
    with work.timed("trace"):
        found = provable(work.dense, trace(work.dense, work.example), work.example)
        check_patterns(found.groups, keep)
    with work.timed("statistics"):
        curves = work.curves(found, keep)
    with work.timed("allocate"):
        limits = {limit.kind: limit.absolute(work.count(limit.kind, work.dense)) for limit in budget.limits}
        allowed = [_allowed(one.group, round_to, minimum) for one in curves.found]
        count = work.allocate(found, curves, limits, allowed)
    with work.timed("refit"):
        recovery = curves.form.run(curves.found, count, curves.rankings, work.progress, refit=recover != "none")
    with work.timed("prove"):
        plan = build_plan(work.dense, found, _decisions(found, recovery.kept, curves.rankings, str(budget)))
        plan, verification, refused = prove(work.dense, found, plan, work.example)
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
    costs = {
        kind: (work.count(kind, work.dense), work.count(kind, small), limit) for kind, limit in limits.items()
    }
    return ToBudgetResult(
        small.eval(), plan, verification, found.refused + refused, costs, tuple(recovery.fitted), tuple(blocks),
        tuple(epochs),
        work.seconds, tuple(work.notes),
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
        self.dense, self.batches, self.forward = copy_of(model).eval(), list(batches), forward
        self.seed, self.progress = seed, progress
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        if not self.batches:
            raise UserError(
                "there is nothing to calibrate on", value="no batches", mend="give some hundred examples"
            )
        self.example = example_of(self.dense, forward, self.batches[0])
        self.examples = sum(_length(batch) for batch in self.batches)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def check(self, budget: Budget, recover: str) -> None:
        if recover not in get_args(Rung):
            guess = nearest(recover, get_args(Rung))
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(f"unknown recover {recover!r}", mend=f"{hint}use one of {', '.join(get_args(Rung))}")
        if not budget.limits:
            raise UserError("the budget is empty", value=budget, mend="write Budget(macs=0.5)")
        for limit in budget.limits:
            if limit.kind not in COUNTED:
                raise UserError(
                    f"a budget for {limit.kind} cannot be met without measuring", value=limit,
                    mend=f"use one of {', '.join(COUNTED)}",
                )  # fmt: skip
        with evaluation(self.dense):
            output = self.forward(self.dense, self.batches[0])
        for tensor in tensors_in(output):
            if not bool(tensor.isfinite().all()):
                raise UserError(
                    "the dense network's output on the calibration data is not finite",
                    where="the first batch", mend="check the data and the weights for NaN",
                )  # fmt: skip
        self.notes += doubts(output)

    def count(self, kind: str, model: nn.Module) -> float:
        return COUNTED[kind](model, self.example)

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
        self, found: Trace, curves: _Curves, limits: Mapping[str, float], allowed: Sequence[Sequence[int]]
    ) -> dict[str, int]:
        """Kept counts of the groups whose cut network, counted, holds every limit."""
        groups = [one.group for one in curves.found]
        errors = [curves.rankings[group.name].errors for group in groups]
        costs = self._costs(groups, limits)
        targets = dict(limits)
        for _ in range(CORRECTIONS):
            removed = choose_counts(errors, costs, targets, allowed).removed
            kept = {
                group.name: tuple(sorted(curves.rankings[group.name].order[n:].tolist()))
                for group, n in zip(groups, removed.tolist(), strict=True)
            }
            plan = build_plan(self.dense, found, _decisions(found, kept, curves.rankings, ""))
            small = apply(plan, copy.deepcopy(self.dense))
            over = {kind: self.count(kind, small) / limit for kind, limit in limits.items()}
            if max(over.values()) <= 1:
                return {d.group: len(d.kept) for d in plan.decisions}
            targets = {kind: targets[kind] * min(1.0, 0.999 / over[kind]) for kind in targets}
        raise UserError(
            "the budget is still missed after several corrections",
            value=", ".join(f"{kind} {value:.3f} times its limit" for kind, value in over.items()),
            mend="raise the budget, or lower round_to and minimum",
        )

    def _costs(self, groups: Sequence[Group], limits: Mapping[str, float]) -> Costs:
        layers = layers_of(self.dense, groups)
        positions = positions_per_weight(self.dense, self.forward, self.batches[0])
        sizes = {name: p.numel() for name, p in self.dense.named_parameters()}
        each = {
            "macs": [float(sizes[layer.name] * positions.get(layer.name, 0)) for layer in layers],
            "params": [float(sizes[layer.name]) for layer in layers],
            "size": [4.0 * sizes[layer.name] for layer in layers],
        }
        fixed = {kind: self.count(kind, self.dense) - sum(each[kind]) for kind in limits}
        return Costs(layers, {kind: [proportional(value) for value in each[kind]] for kind in limits}, fixed)


def example_of(model: nn.Module, forward: Forward, batch: Any) -> Any:
    """What ``forward`` hands to the model, two examples of it, as `neuroprune.trace` takes it."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = model.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        with evaluation(model):
            forward(model, batch)
    finally:
        handle.remove()
    args, kwargs = map_tensors(lambda x: x[:2] if x.dim() else x, calls[0])
    if not kwargs:
        return args
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return dict(bound.arguments)


def positions_per_weight(model: nn.Module, forward: Forward, batch: Any) -> dict[str, int]:
    """Weight name -> how often each of its values is multiplied for one example."""
    found: dict[str, int] = {}

    def saw(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not isinstance(module.weight, Tensor):
            return
        transposed = isinstance(module, _ConvTransposeNd)
        value = args[0] if transposed else output
        own = module.weight.shape[0]
        found[f"{name}.weight"] = found.get(f"{name}.weight", 0) + value[0].numel() // own

    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}
    hooks = [m.register_forward_hook(lambda m, a, o, n=n: saw(n, m, a, o)) for n, m in layers.items()]
    try:
        with evaluation(model):
            forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def doubts(output: Any) -> list[str]:
    """Why the calibration data may not be what the network was trained on; empty where nothing speaks for it."""
    scores = next(iter(tensors_in(output)), None)
    if scores is None or scores.dim() != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        return []
    share = float(scores.argmax(1).bincount().max()) / scores.shape[0]
    sure = float(scores.float().softmax(1).max(1).values.mean())
    if scores.shape[0] >= 16 and (share > 0.9 or sure < 1.5 / scores.shape[1]):
        return [
            f"the dense network gives {share:.0%} of the calibration examples the same class, with a mean "
            f"confidence of {sure:.0%}: are they scaled and normalised as in training?"
        ]
    return []


def _length(batch: Any) -> int:
    return next((x.shape[0] for x in tensors_in(batch) if x.dim()), 1)


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
