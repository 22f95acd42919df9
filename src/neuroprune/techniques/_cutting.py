"""What techniques that remove whole units have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group
from neuroprune.pruning.allocate import Scope, allocate
from neuroprune.pruning.criteria import CRITERIA, WeightView
from neuroprune.pruning.cut import provable, prove
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.score import gather, role_of, score
from neuroprune.pruning.surgery import apply
from neuroprune.recover.statistics import reestimate_batch_norm
from neuroprune.techniques._base import Setting, Thinned
from neuroprune.techniques._masking import first_batches, parameters, train

#: steps of the bisection over the ratio
STEPS = 14


@dataclass(frozen=True)
class Units:
    """The provable groups of a network, and those of them that a technique leaves whole (as ``keep`` patterns)."""

    found: Trace
    keep: tuple[str, ...]


def units_of(setting: Setting, model: nn.Module, wanted: Callable[[nn.Module, Group], bool], what: str) -> Units:
    """Raises UserError where no group is ``wanted``."""
    inputs = setting.task.example_inputs
    found = provable(model, trace(model, inputs), inputs)
    others = tuple(group.name for group in found.groups if not wanted(model, group))
    if len(others) == len(found.groups):
        raise UserError(
            f"this network has no {what} that can be removed",
            where=f"model {type(model).__name__}",
            value=f"{len(others)} groups of units: {', '.join(others[:5]) or 'none'}",
            mend="take another technique: `neuroprune list techniques`",
        )
    return Units(found, others)


def producers(model: nn.Module, group: Group) -> list[nn.Module]:
    """The layers whose outputs the units are."""
    parameters = dict(model.named_parameters())
    found = []
    for part in group.slices:
        module = model.get_submodule(part.tensor.rpartition(".")[0])
        tensor = parameters.get(part.tensor)
        if tensor is None or tensor.dim() < 2:
            continue
        if role_of(module, WeightView(part.tensor, tensor.detach()), part.dim) == "rows":
            found.append(module)
    return found


def is_neurons(model: nn.Module, group: Group) -> bool:
    """Outputs of linear layers alone."""
    makers = producers(model, group)
    return bool(makers) and all(isinstance(maker, nn.Linear) for maker in makers)


def is_filters(model: nn.Module, group: Group) -> bool:
    """Outputs of one convolution: no sum ties them to others, as in a residual stream."""
    makers = producers(model, group)
    return len(makers) == 1 and isinstance(makers[0], _ConvNd)


def is_any(model: nn.Module, group: Group) -> bool:
    return True


def cut_to(
    setting: Setting,
    model: nn.Module,
    units: Units,
    density: float,
    *,
    criterion: str,
    scope: Scope,
    keep: Sequence[str] = (),
    round_to: int = 1,
) -> tuple[nn.Module, Plan]:
    """``model`` without its lowest units, so that at most ``density`` of the dense network's parameters stay.

    Batch norm is estimated anew. What cannot be proven stays whole, and the network larger. Raises UserError where
    the units that may go do not make it that small.
    """
    rule, data = CRITERIA.get(criterion), first_batches(setting)
    seen = units.found if "loss" in rule.needs else None
    statistics = gather(model, criterion, data, setting.task.forward, setting.task.loss, trace=seen)
    whole = (*units.keep, *keep)
    scores = score(model, units.found, criterion, statistics, seed=setting.seed, keep=whole)
    limit = density * parameters(setting.model)

    def plan_at(ratio: float) -> Plan:
        return allocate(
            model, units.found, scores, ratio, scope=scope, keep=whole, round_to=round_to, criterion=criterion,
            constraint=f"density={density:.4g}",
        )  # fmt: skip

    plan = smallest_ratio(model, plan_at, limit)
    plan, verification, _ = prove(model, units.found, plan, setting.task.example_inputs)
    if not verification.exact:
        raise CutRefused(f"no part of the cut is exact: {verification.problem}", where=verification.where or None)
    small = apply(plan, copy.deepcopy(model))
    reestimate_batch_norm(small, first_batches(setting), setting.task.forward)
    return small, plan


def cut_and_train(
    setting: Setting,
    wanted: Callable[[nn.Module, Group], bool],
    what: str,
    *,
    criterion: str,
    scope: Scope,
    keep: Sequence[str],
    round_to: int,
) -> Thinned:
    """One cut of what is ``wanted``, then the whole training."""
    units = units_of(setting, setting.model, wanted, what)
    small, plan = cut_to(
        setting, setting.model, units, setting.density, criterion=criterion, scope=scope, keep=keep,
        round_to=round_to,
    )  # fmt: skip
    return Thinned(small.eval(), plan, trainings=train(setting, small, "training after the cut"))


def smallest_ratio(model: nn.Module, plan_at: Callable[[float], Plan], limit: float) -> Plan:
    """The plan of the smallest ratio that leaves at most ``limit`` parameters, by bisection."""

    def size(plan: Plan) -> int:
        return parameters(apply(plan, copy.deepcopy(model)))

    low, high = 0.0, 0.999
    best = plan_at(high)
    if size(best) > limit:
        raise UserError(
            "the units that this technique removes do not make the network that small",
            value=f"{size(best):,} parameters stay, {int(limit):,} may",
            mend="give a larger density, or take a technique that removes more kinds of units",
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        plan = plan_at(middle)
        if size(plan) <= limit:
            best, high = plan, middle
        else:
            low = middle
    return best
