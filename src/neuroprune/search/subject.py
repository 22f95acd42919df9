"""The network that is searched: its space, and the network of each point, recovered without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.budget.calibration import batches_with
from neuroprune.budget.decide import allowed_removals, decisions_of
from neuroprune.budget.depth import Removable, removable_blocks, weighted
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Costs, layers_of
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group
from neuroprune.pruning.allocate import build_plan, check_patterns
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.cut import provable
from neuroprune.pruning.depth import with_blocks
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.score import score
from neuroprune.pruning.surgery import apply
from neuroprune.recover.moments import DAMPING, Moments, least_squares
from neuroprune.recover.obs import Ranking
from neuroprune.recover.refit import (
    ClosedForm,
    Consumption,
    affine_at,
    consumptions,
    dense_moments,
    not_finite,
    place_weights,
    rank_groups,
    without_bias,
)
from neuroprune.recover.replay import Replay
from neuroprune.recover.statistics import reestimate_batch_norm
from neuroprune.search.kernels import shrinkable, taps, with_kernels
from neuroprune.search.layer_facts import layer_facts
from neuroprune.search.space import Point, Space, Width
from neuroprune.tasks.batches import batch_length

#: how the network of a point is recovered before it is judged
Recovery = Literal["none", "batch-norm", "refit", "closed-form"]
#: rows of a trial's least-squares problem per column (see `neuroprune.budget.trials`)
ROWS = 30


@dataclass(frozen=True, eq=False)
class Options:
    """What may change, and how it is recovered. ``keep``: patterns of what stays whole; ``round_to``, ``minimum``:
    kept counts are multiples and at least so many; ``depth``, ``kernels``: blocks may go, kernels may become 1x1.

    ``recover``: ``none``; ``batch-norm`` (statistics estimated anew, as EagleEye does, Li 2020); ``refit`` (first
    each layer that lost inputs by least squares on the dense network's own inputs, which takes no pass over
    data); or ``closed-form`` (layer by layer on what the pruned network gives, which takes many). ``fitted``:
    examples for the last and for batch norm.
    """

    keep: tuple[str, ...] = ()
    round_to: int = 1
    minimum: int = 1
    depth: bool = False
    kernels: bool = False
    recover: Recovery = "refit"
    fitted: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recover not in get_args(Recovery):
            guess = nearest(self.recover, get_args(Recovery))
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(
                f"unknown recover {self.recover!r}", mend=f"{hint}use one of {', '.join(get_args(Recovery))}"
            )
        if min(self.round_to, self.minimum, self.fitted) < 1:
            raise UserError(
                "round_to, minimum and fitted must be at least 1",
                value=(self.round_to, self.minimum, self.fitted),
                mend="1 means no constraint; some hundred examples are enough for a trial's refit",
            )


class Subject:
    """``setting``: the dense network, its data and what it is for; ``space``: what may be chosen of it.

    ``found``: of the dense network's trace what can be proven; ``rankings``: in which order units of a group go,
    and what is lost then; ``blocks``: those that can go.
    """

    def __init__(self, setting: Setting, kinds: Sequence[str] = (), options: Options | None = None) -> None:
        """``kinds``: of budgets whose costs a point should have, beside macs and params. Raises UserError where
        nothing can be searched."""
        self.setting, self.dense, self.options = setting, setting.dense, options or Options()
        self.found = provable(self.dense, trace(self.dense, setting.example), setting.example)
        check_patterns(self.found.groups, self.options.keep)
        examples = sum(batch_length(batch) for batch in setting.batches)
        self.form = ClosedForm(
            self.dense, setting.forward, setting.batches, examples, seed=self.options.seed, remember=True
        )
        self.kernels = self._kernels() if self.options.kernels else {}
        self.consumed, self.moments, self.rankings = self._ranked(examples)
        self.blocks = self._blocks() if self.options.depth else ()
        self.space = self._space(list(dict.fromkeys(["macs", "params", *kinds])))
        self.fitted = batches_with(setting.batches, self.options.fitted)

    def network(self, point: Point) -> nn.Module:
        """The cut network of ``point``, recovered as the options say, in evaluation mode; not proven."""
        point = self.space.round(point)
        model, kept = _RECOVERIES[self.options.recover](self, point)
        small = apply(self.plan(point, kept), model).eval()
        if self.options.recover in ("batch-norm", "refit"):
            reestimate_batch_norm(small, self.fitted, self.setting.forward)
        return small

    def plan(self, point: Point, kept: Mapping[str, Sequence[int]], constraint: str = "search") -> Plan:
        """``kept[group]``: units that stay."""
        decisions = decisions_of(self.found, kept, self.rankings, constraint)
        plan = build_plan(self.dense, self.found, decisions)
        gone = [one.block for one in self.blocks if one.block.module in point.gone]
        return with_kernels(with_blocks(plan, gone), self.dense, point.shrunk)

    def kept(self, point: Point) -> dict[str, tuple[int, ...]]:
        """Units that stay where all go by their rankings."""
        return {
            width.name: tuple(sorted(self.rankings[width.name].order[width.size - count :].tolist()))
            for width, count in zip(self.space.widths, self.space.counts(point), strict=True)
        }

    def recovered(self, point: Point, batches: Sequence[Any], rows: int = ROWS) -> ClosedForm:
        """A closed-form recovery that is ready to run on ``batches``: its blocks and taps are gone already."""
        form = self.form.again()
        form.batches, form.rows = batches, rows
        form.examples = sum(batch_length(batch) for batch in batches)
        form.without(point.gone)
        form.narrow({layer: taps(self.dense, layer) for layer in point.shrunk})
        return form

    def counts(self, point: Point) -> dict[str, int]:
        """Kept units of every group of the space."""
        return {w.name: n for w, n in zip(self.space.widths, self.space.counts(point), strict=True)}

    def _kernels(self) -> dict[str, float]:
        """Of layers that can be refitted, and that nobody wants to keep."""
        sites, keep = {site.layer for site in self.form.sites}, self.options.keep
        held = {part.tensor for group in self.found.groups if group.matches(keep) for part in group.slices}
        every = shrinkable(self.dense).items()
        return {name: share for name, share in every if name in sites and f"{name}.weight" not in held}

    def _ranked(self, examples: int) -> tuple[list[Consumption], dict[str, Moments], dict[str, Ranking]]:
        """Groups that a refit makes good by structured OBS; where units are only cut, the others by their norm."""
        groups = [group for group in self.found.groups if not group.matches(self.options.keep)]
        consumed = consumptions(self.dense, groups, self.form.sites)
        used = {name for one in consumed for name in one.columns} | set(self.kernels)
        sites = [site for site in self.form.sites if site.layer in used]
        replay = Replay(self.dense, self.setting.forward, self.setting.batches, remember=False)
        moments = dense_moments(replay, sites, examples, self.options.seed)
        rankings = rank_groups(self.dense, consumed, self.form.sites, moments)
        if self.options.recover in ("none", "batch-norm"):
            others = [group for group in groups if group.name not in rankings]
            rankings |= _by_norm(self.dense, self.found, others)
        return consumed, moments, rankings

    def _blocks(self) -> tuple[Removable, ...]:
        found = removable_blocks(self.setting, self.options.keep, self.options.seed)
        return tuple(weighted(found, place_weights(self.form.sites)))

    def _space(self, kinds: Sequence[str]) -> Space:
        groups = [group for group in self.found.groups if group.name in self.rankings]
        groups.sort(key=self._place)
        names = [one.block.module for one in self.blocks]
        shrunk = [f"{name}.weight" for name in self.kernels]
        inner = [n for n, p in self.dense.named_parameters() if p.dim() > 1 and is_inside(n, names)]
        layers = layers_of(self.dense, groups, [*shrunk, *inner])
        inside = {b: frozenset(n for n, one in enumerate(layers) if is_inside(one.name, [b])) for b in names}
        touching = [
            {n for n, one in enumerate(layers) if any(part.group == g for part in (*one.rows, *one.columns))}
            for g in range(len(groups))
        ]
        members = {b: frozenset(g for g, own in enumerate(touching) if own <= inside[b]) for b in names}
        widths, costs = tuple(map(self._width, groups)), self._costs(layers, kinds)
        errors = {one.block.module: one.error for one in self.blocks}
        return Space(widths, costs, tuple(names), self.kernels, inside, members, errors, self.found.system)

    def _place(self, group: Group) -> int:
        """Where in the order of layers the group's first one runs."""
        layers = [site.layer for site in self.form.sites]
        owners = {part.tensor.rpartition(".")[0] for part in group.slices}
        return min((n for n, layer in enumerate(layers) if layer in owners), default=len(layers))

    def _width(self, group: Group) -> Width:
        removals = allowed_removals(group, self.options.round_to, self.options.minimum)
        kept = tuple(sorted(group.size - n for n in removals))
        errors = tuple(map(float, self.rankings[group.name].errors))
        return Width(group.name, group.size, kept, errors, layer_facts(self.dense, group.slices[0].tensor))

    def _costs(self, layers: Sequence[Any], kinds: Sequence[str]) -> Costs:
        of, fixed, whole = {}, {}, {"whole": Variant(self.dense, self.setting.target.precision)}
        for name in kinds:
            kind = KINDS.get(name)
            of[name] = kind.layers(layers, self.setting)
            total = kind.figures(whole, self.setting)["whole"]
            fixed[name] = max(total - sum(one(1.0, 1.0) for one in of[name]), 0.0)
        return Costs(tuple(layers), of, fixed)


def _by_norm(model: nn.Module, found: Trace, groups: Sequence[Group]) -> dict[str, Ranking]:
    """Units with the least l2 norm first; what is lost is the share of the norms."""
    names = {group.name for group in groups}
    scores = score(model, found, "l2", keep=[g.name for g in found.groups if g.name not in names])
    rankings = {}
    for group in groups:
        order = np.argsort(scores[group.name], kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(scores[group.name][order] ** 2)])
        rankings[group.name] = Ranking(order, lost / max(float(lost[-1]), 1e-30))
    return rankings


Recovered = tuple[nn.Module, dict[str, tuple[int, ...]]]


def _plain(subject: Subject, point: Point) -> Recovered:
    return copy.deepcopy(subject.dense), subject.kept(point)


def _closed_form(subject: Subject, point: Point) -> Recovered:
    form = subject.recovered(point, subject.fitted)
    found = form.run(subject.consumed, subject.counts(point), subject.rankings)
    return found.model, found.kept


def _refit(subject: Subject, point: Point) -> Recovered:
    """Every layer that lost inputs or taps is fitted to its dense values on the dense network's inputs."""
    form, kept = subject.recovered(point, subject.setting.batches), subject.kept(point)
    dropped: dict[str, list[Tensor]] = {layer: [] for layer in point.shrunk}
    for one in subject.consumed:
        gone = sorted(set(range(one.group.size)) - set(kept[one.group.name]))
        form.drop(one.group, gone)
        for layer, columns in one.columns.items() if gone else ():
            dropped.setdefault(layer, []).append(columns[gone].flatten())
    for site in form.sites:
        if site.layer in dropped and not is_inside(site.layer, point.gone):
            columns = torch.ones(subject.moments[site.layer].xx.shape[1] - 1, dtype=torch.bool)
            for one_set in dropped[site.layer]:
                columns[one_set] = False
            if site.layer in point.shrunk:
                columns &= ~taps(subject.dense, site.layer)
            _fit(subject, form.model, site.layer, columns)
    return form.model, kept


def _fit(subject: Subject, model: nn.Module, layer: str, columns: Tensor) -> None:
    """``columns``: bool, those of the layer's matrix that stay. See `neuroprune.budget.without`."""
    site = next(site for site in subject.form.sites if site.layer == layer)
    dense, affine = affine_at(subject.dense, site).weight(), affine_at(model, site)
    own = subject.moments[layer]
    wanted = Moments(own.xx, own.xx @ dense.transpose(1, 2), own.yy, own.rows)
    fitted = wanted if affine.can_have_bias() else without_bias(wanted)
    try:
        solution = least_squares(fitted, columns, DAMPING, dense)
    except ValueError as error:
        raise not_finite(layer) from error
    rows = (affine.weight().abs().sum(2, keepdim=True) > 0).double()  # its own units may be gone as well
    affine.write(solution.weight * rows, own)


_RECOVERIES: dict[str, Callable[[Subject, Point], Recovered]] = {
    "none": _plain,
    "batch-norm": _plain,
    "refit": _refit,
    "closed-form": _closed_form,
}
