"""Depth beside width: whole blocks compete with channels for the same budget.

A block that goes saves all of its layers' cost and adds an error of its own: what its output lacks then, over the
output's variance, which is how the errors of channels are counted too. Blocks go one by one, and the best choice
of channels for what is left, with the blocks' errors, is taken of all these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.budget.allocations import Allocation
from neuroprune.budget.kinds import Setting
from neuroprune.budget.problem import LayerCost, Problem
from neuroprune.graph.calls import tensors_in
from neuroprune.pruning.blocks import Block, find_blocks
from neuroprune.pruning.bypass import Bypass, is_inside
from neuroprune.pruning.depth import kept_blocks, prove_blocks, units_of
from neuroprune.pruning.plan import Plan

#: how many blocks are tried at each step while the error falls: the cheapest for what they save
TRIED = 4


@dataclass(frozen=True)
class Removable:
    """A block that can go, and the error of its output then, over the output's variance."""

    block: Block
    error: float


@dataclass(frozen=True)
class Choice:
    """``removed[group]``: how many units go; ``gone``: blocks that go whole; ``error``: of all that; ``costs``:
    what the model of costs says of it, per budget."""

    removed: np.ndarray
    gone: tuple[Removable, ...]
    error: float
    costs: Mapping[str, float] = field(default_factory=dict)

    def key(self) -> tuple[object, ...]:
        """Equal for choices of the same units and blocks."""
        return (*self.removed.tolist(), *sorted(one.block.module for one in self.gone))


def removable_blocks(setting: Setting, keep: Sequence[str] = (), seed: int = 0) -> list[Removable]:
    """Blocks whose removal is proven, with the errors that it makes on the calibration batches."""
    dense = setting.dense
    found = units_of(dense, find_blocks(dense, setting.example, seed=seed)[0])
    kept = kept_blocks(dense, found, _patterns(dense, keep))
    wanted = [block for block in found if block.module not in kept and block.calls == 1]
    plan = prove_blocks(dense, Plan.identity(dense), wanted, setting.example)[0]
    blocks = [block for block in wanted if block.module in plan.bypassed]
    errors = errors_without(setting, blocks)
    return [Removable(block, errors[block.module]) for block in blocks if block.module in errors]


def weighted(blocks: Sequence[Removable], weights: Mapping[str, float]) -> list[Removable]:
    """The same, each error times the weight of the block's last layer: as the errors of channels count by their
    layers' places (`refit.place_weights`)."""
    found = []
    for one in blocks:
        inside = [weight for layer, weight in weights.items() if is_inside(layer, [one.block.module])]
        found.append(replace(one, error=one.error * (inside[-1] if inside else 1.0)))
    return found


def _patterns(model: nn.Module, keep: Sequence[str]) -> list[str]:
    """Those that speak of modules or parameters; others name groups."""
    names = [*dict(model.named_modules()), *dict(model.named_parameters())]
    return [pattern for pattern in keep if any(fnmatch(name, pattern) for name in names)]


def errors_without(setting: Setting, blocks: Sequence[Block]) -> dict[str, float]:
    """Per block: squared difference of what it gives and what it is given, over the variance of what it gives.

    Both less their mean over the examples of a batch, which a bias behind makes good. One pass over the batches.
    """
    sums: dict[str, Tensor] = {}
    stand_ins = {block.module: Bypass(block.returns) for block in blocks}

    def saw(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        pairs = zip(tensors_in(output), tensors_in(stand_ins[name](*args, **kwargs)), strict=True)
        given, got = next((a, b) for a, b in pairs if a.is_floating_point())
        found = torch.stack([_spread(given - got), _spread(given)])
        sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + found

    handles = [
        setting.dense.get_submodule(name).register_forward_hook(
            lambda _m, args, kwargs, output, n=name: saw(n, args, kwargs, output), with_kwargs=True
        )
        for name in stand_ins
    ]
    try:
        with evaluation(setting.dense):
            for batch in setting.batches:
                setting.forward(setting.dense, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(lost / max(float(spread), 1e-30)) for name, (lost, spread) in sums.items()}


def _spread(value: Tensor) -> Tensor:
    """Sum of squares about the mean over the examples (dimension 0), where there are several."""
    value = value.double()
    count = value.shape[0] if value.dim() else 1
    if count < 2:
        return value.square().sum()
    return (value - value.mean(0)).square().sum() * count / (count - 1)


def choose(problem: Problem, blocks: Sequence[Removable], allocation: Allocation) -> Choice:
    """Counts by ``allocation``, and which of ``blocks`` go, so that every limit holds and the error is least.

    Raises UserError where no choice holds a limit.
    """
    return _Chooser(problem, blocks, allocation).choice()


def least(problem: Problem, blocks: Sequence[Removable], allocation: Allocation) -> dict[str, float]:
    """Per budget what is left where all blocks are gone and as many units as may go."""
    bare = _Chooser(problem, blocks, allocation)._without(blocks)
    most = np.array([own[-1] for own in bare.allowed], dtype=np.int64)
    return {budget: bare.costs.total(budget, most) for budget in problem.limits}


class _Chooser:
    def __init__(self, problem: Problem, blocks: Sequence[Removable], allocation: Allocation) -> None:
        self.problem, self.blocks, self.allocation = problem, list(blocks), allocation
        layers = problem.costs.layers
        self.inside = {
            one.block.module: {n for n, layer in enumerate(layers) if is_inside(layer.name, [one.block.module])}
            for one in blocks
        }
        touching: dict[int, set[int]] = {}
        for number, layer in enumerate(layers):
            for part in (*layer.rows, *layer.columns):
                touching.setdefault(part.group, set()).add(number)
        self.members = {
            name: {group for group, own in touching.items() if own <= inside}
            for name, inside in self.inside.items()
        }
        self.problems: list[UserError] = []

    def choice(self) -> Choice:
        """The best along the way from no block gone to all: an error may rise before it falls again."""
        now = best = self._with(())
        rising = False
        while left := [one for one in self.blocks if one not in now.gone]:
            order = sorted(left, key=lambda one: self._price(one, now))
            tried = [self._with((*now.gone, one)) for one in order[: 1 if rising else TRIED]]
            then = min(tried, key=lambda choice: choice.error)
            rising = np.isfinite(now.error) and then.error >= now.error
            now = tried[0] if rising or not np.isfinite(then.error) else then
            best = min(best, now, key=lambda choice: choice.error)
            if sum(one.error for one in now.gone) >= best.error:  # and more blocks only add to that
                break
        if not np.isfinite(best.error):
            raise self.problems[-1]  # with as many blocks gone as there are: the least that can be reached
        return best

    def _with(self, gone: tuple[Removable, ...]) -> Choice:
        reduced = self._without(gone)
        try:
            removed = self.allocation(reduced)
        except UserError as error:
            self.problems.append(error)
            return Choice(np.array([a[-1] for a in reduced.allowed]), gone, float("inf"))
        errors = sum(curve[i] for curve, i in zip(reduced.errors, removed.tolist(), strict=True))
        costs = {budget: reduced.costs.total(budget, removed) for budget in reduced.limits}
        return Choice(removed, gone, float(errors) + sum(one.error for one in gone), costs)

    def _without(self, gone: Sequence[Removable]) -> Problem:
        """The same, where the layers of these blocks cost nothing and the groups inside stay as they are."""
        layers = {n for one in gone for n in self.inside[one.block.module]}
        groups = {g for one in gone for g in self.members[one.block.module]}
        of: Mapping[str, Sequence[LayerCost]] = {
            budget: [_nothing if n in layers else cost for n, cost in enumerate(costs)]
            for budget, costs in self.problem.costs.of.items()
        }
        allowed = [[0] if g in groups else own for g, own in enumerate(self.problem.allowed)]
        return replace(self.problem, costs=replace(self.problem.costs, of=of), allowed=allowed)

    def _price(self, one: Removable, now: Choice) -> float:
        """Error that the block's removal adds, per share of the limits that it frees, as things are."""
        name, costs = one.block.module, self.problem.costs
        spent = sum(float(self.problem.errors[g][int(now.removed[g])]) for g in self.members[name])
        freed = sum(
            costs.layer(budget, n, now.removed) / limit
            for budget, limit in self.problem.limits.items()
            for n in self.inside[name]
        )
        return (one.error - spent) / max(freed, 1e-30)


def _nothing(rows: float, columns: float) -> float:
    return 0.0
