"""Sensitivity analysis: what the network loses when one group alone is cut, against the share that goes.

One group at a time, at one ratio after another, units in the order of a criterion (Li et al. 2017, Pruning filters
for efficient ConvNets, section 3.2). Nothing is trained. Each finished point is on disk before the next begins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.budget.calibration import example_of
from neuroprune.budget.curves import Curve, Point, Sensitivity
from neuroprune.budget.judge import Judge
from neuroprune.budget.without import Refit, Without
from neuroprune.graph.calls import tensors_in
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group
from neuroprune.pruning.allocate import check_patterns
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.cut import provable
from neuroprune.pruning.score import gather, score
from neuroprune.recover.refit import consumptions, dense_moments
from neuroprune.recover.replay import Forward, Replay
from neuroprune.recover.sites import find_sites
from neuroprune.tasks.batches import batch_length
from neuroprune.tasks.task import default_forward, default_loss, tensor_bytes

__all__ = ["Sensitivity", "sensitivity"]

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    model: nn.Module,
    batches: Sequence[Any],
    ratios: Sequence[float] = RATIOS,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    forward: Forward = default_forward,
    criterion: str = "l2",
    recover: bool = False,
    labels: bool = True,
    keep: Sequence[str] = (),
    out: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sensitivity:
    """How much each group of units matters: the network measured with a part of that group alone cut off.

    >>> curves = sensitivity(model, list(images.split(128)), out="sensitivity.json")      # doctest: +SKIP
    >>> [curve.group for curve in curves.ranked()]                                        # doctest: +SKIP

    ``batches``: as ``forward(model, batch)`` takes them. What is measured is always how far the outputs are from
    the dense network's; and accuracy, where ``batch[1]`` holds class indices for the output's scores (unless
    ``labels`` is False), or ``evaluate(model)`` (higher is better). ``criterion``: in which order units go.
    ``recover``: layers that read the group are fitted again by least squares, so that a curve shows what a refit
    cannot repair.
    ``keep``: groups that are not looked at. ``out``: JSON file, written after every point; ``resume``: go on with
    the points in it; it ends as if it had never been stopped. Costs a pass over ``batches`` per group and ratio;
    the dense outputs are held in memory.

    Raises UserError for options and data that cannot be used, and for a file of other curves.
    """
    ratios = _checked(ratios)
    CRITERIA.get(criterion)
    file = _file(out, resume)
    dense = copy_of(model).eval()
    batches = _not_empty(batches)
    judge = Judge(dense, forward, batches, evaluate, labels)
    example = example_of(dense, forward, batches[0])
    found = provable(dense, trace(dense, example), example)
    check_patterns(found.groups, keep)
    groups = _measurable(found, keep)
    options = {"ratios": list(ratios), "criterion": criterion, "recover": recover, "labels": judge.labelled,
               "keep": list(keep), "seed": seed}  # fmt: skip
    orders = _orders(dense, found, criterion, batches, forward, judge, seed, keep)
    without = Without(dense, found, refit_of(dense, found, forward, batches, seed) if recover else None)
    start = started(groups, without, judge, options, {"model": _weights_digest(dense), "data": _digest(batches)})
    if resume and file is not None and file.exists():
        start = _continued(start, Sensitivity.load(file), file)
    analysis = Analysis(without, judge, orders, progress or SilentProgress())
    return analysis.run(start, file)


def _checked(ratios: Sequence[float]) -> tuple[float, ...]:
    found = tuple(sorted(float(ratio) for ratio in ratios))
    if not found or not all(0 < ratio < 1 for ratio in found) or len(set(found)) < len(found):
        raise UserError(
            "the ratios must be different numbers above 0 and below 1",
            value=", ".join(f"{ratio:g}" for ratio in found) or "none",
            mend="0.5 removes half; write for example 0.1,0.3,0.5,0.7,0.9",
        )
    return found


def _file(out: Path | str | None, resume: bool) -> Path | None:
    if out is None and resume:
        raise UserError("there is nothing to resume from", mend="give out=, the file of the interrupted analysis")
    file = None if out is None else Path(out)
    if file is not None and file.exists() and not resume:
        raise UserError(
            f"{file.name} is there already",
            where=str(file.absolute().parent),
            mend="go on with it by resume=True, or name another file",
        )
    return file


def _not_empty(batches: Sequence[Any]) -> list[Any]:
    found = list(batches)
    if not found:
        raise UserError("there is nothing to measure on", value="no batches", mend="give some hundred examples")
    return found


def _measurable(found: Trace, keep: Sequence[str]) -> list[Group]:
    groups = [group for group in found.groups if group.size > 1 and not group.matches(keep)]
    if not groups:
        raise UserError(
            "no group of this network can be cut",
            value=f"{len(found.groups)} groups, {len(found.refused)} refused dimensions",
            mend="see `neuroprune inspect`, or keep less",
        )
    return groups


def _orders(
    dense: nn.Module, found: Trace, criterion: str, batches: Sequence[Any], forward: Forward, judge: Judge,
    seed: int, keep: Sequence[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    loss = default_loss if judge.labelled else None
    statistics = gather(dense, criterion, batches, forward, loss, trace=found)
    scores = score(dense, found, criterion, statistics, seed=seed, keep=keep)
    return orders_by(scores)


def orders_by(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Units of each group, lowest score first."""
    return {name: np.argsort(values, kind="stable") for name, values in scores.items()}


def refit_of(dense: nn.Module, found: Trace, forward: Forward, batches: Sequence[Any], seed: int) -> Refit:
    """What fitting consumers again takes, from one pass over the data."""
    sites = find_sites(dense, lambda net: forward(net, batches[0]))
    ours = {one.group.name: one for one in consumptions(dense, found.groups, sites)}
    used = {layer for one in ours.values() for layer in one.columns}
    needed = [site for site in sites if site.layer in used]
    examples = sum(batch_length(batch) for batch in batches)
    moments = dense_moments(Replay(dense, forward, batches, remember=False), needed, examples, seed)
    return Refit(ours, {site.layer: site for site in needed}, moments)


def started(
    groups: Sequence[Group],
    without: Without,
    judge: Judge,
    options: Mapping[str, Any],
    identity: Mapping[str, str],
) -> Sensitivity:
    """Curves without points."""
    curves = tuple(Curve(g.name, g.size, g.kind, without.refits(g)) for g in groups)
    return Sensitivity(curves, judge.examples, judge.metric, judge.unit, judge.dense, options, identity)


def _continued(start: Sensitivity, before: Sensitivity, file: Path) -> Sensitivity:
    """``before``, if it is of the same network, data and options. Raises UserError that names what is not."""
    changed = [key for key in start.identity if before.identity.get(key) != start.identity[key]]
    changed += [key for key in start.options if before.options.get(key) != start.options[key]]
    bare = replace(before, curves=tuple(replace(curve, points=()) for curve in before.curves))
    if changed or bare != start:
        raise UserError(
            "the curves in this file were measured otherwise",
            where=str(file),
            value=f"not the same: {', '.join(changed) or 'groups or the dense figures'}",
            mend="resume with the same model, data and options, or name another file",
        )
    return before


@dataclass(frozen=True)
class Analysis:
    """``orders[group]``: units, first to go first."""

    without: Without
    judge: Judge
    orders: Mapping[str, np.ndarray]
    progress: Progress

    def run(self, start: Sensitivity, file: Path | None = None) -> Sensitivity:
        """All points that ``start`` lacks; ``file`` has every point as soon as it is measured."""
        ratios, found = start.options["ratios"], start
        self.progress.start("sensitivity", len(ratios) * len(start.curves))
        if file is not None:
            found.save(file)
        for curve in start.curves:
            for number, ratio in enumerate(ratios):
                if number >= len(curve.points):
                    found = found.with_point(curve.group, self._point(found.curve(curve.group), ratio))
                    if file is not None:
                        found.save(file)
                self.progress.advance(curve.group)
        return found

    def _point(self, curve: Curve, ratio: float) -> Point:
        removed = min(math.ceil(curve.units * ratio - 1e-9), curve.units - 1)
        for point in curve.points:  # groups of few units: the same cut again
            if point.removed == removed:
                return replace(point, ratio=ratio)
        group = self.without.found.group(curve.group)
        with self.without.units(group, self.orders[curve.group][:removed].tolist()) as (network, gone):
            judged = self.judge(network)
        return Point(ratio, gone, judged.divergence, judged.agreement, judged.metric)


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(name.encode() + tensor_bytes(value))
    return digest.hexdigest()


def _digest(batches: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in tensors_in(batch):
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
