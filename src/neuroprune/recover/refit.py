"""Recovery without labels, closed form: units are chosen and layers refitted in the order in which they run.

Each layer is fitted by least squares: on the inputs that the already pruned network gives it, to the values of the
dense network; where the value enters a sum, to the dense network's *sum* less the other term as the pruned network
has it, so that drift on a residual stream is corrected. Nothing is labelled and no gradient is taken.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.graph.units import Group
from neuroprune.pruning.bypass import is_inside, silence
from neuroprune.pruning.design import inputs_of, matrix_of, outputs_of, positions_of, weight_of
from neuroprune.recover.affine import Affine
from neuroprune.recover.moments import DAMPING, Moments, Solution, least_squares
from neuroprune.recover.obs import Consumer, Ranking, rank
from neuroprune.recover.replay import Enough, Forward, Replay
from neuroprune.recover.sites import Site, Tap, find_sites

#: rows of a least-squares problem per column: more of them change the result less than another sample would
#: (ResNet-20, 2.1x, agreement on JPEG copies of other training images: 82.4 with 50, 82.7 with 100, 82.0 with 200)
ROWS_PER_COLUMN = 100
#: input values that are kept of one layer, for targets that depend on what the layer gives (256 MB)
MOST_HELD = 1 << 26
#: how often such targets are set anew
ROUNDS = 3
#: refits of later layers make good what went wrong before them, and nothing makes good what goes wrong last.
#: Agreement at 2.1x, training images not calibrated on / JPEG copies of others: ResNet-20 92.1 / 82.2 with 0,
#: 92.5 / 83.5 with 1, 91.8 / 83.0 with 1.5; ResNet-56 97.7 / 90.1 with 0, 98.1 / 90.3 with 1
LATE = 1.0


@dataclass(frozen=True)
class Fitted:
    """One refitted layer: relative error of its value (of the variance of what it aims at) without the refit, when
    its own inputs are gone already, and with it; damping used."""

    layer: str
    before: float
    after: float
    damping: float


@dataclass
class Recovery:
    """What closed-form recovery did. ``kept[group]``: units that stay; ``fitted``: in order."""

    model: nn.Module
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fitted: list[Fitted] = field(default_factory=list)


def affine_at(model: nn.Module, site: Site) -> Affine:
    norm = model.get_submodule(site.norm) if site.norm is not None else None
    assert norm is None or isinstance(norm, _BatchNorm)
    return Affine(model.get_submodule(site.layer), norm)


def _input_dim(module: nn.Module | None, key: str) -> int:
    """Transposed convolutions sum over the first dimension of their weight."""
    return 0 if isinstance(module, _ConvTransposeNd) and key == "weight" else 1


def columns_of(module: nn.Module, channels: np.ndarray) -> Tensor:
    """[units, columns] of the weight matrix for [units, k] input channels."""
    kernel = matrix_of(module).shape[2] // weight_of(module).shape[1]
    columns = channels[:, :, None] * kernel + np.arange(kernel)
    return torch.from_numpy(columns.reshape(len(channels), -1))


def share_of(module: nn.Module, output: Tensor, examples: int, rows: int = ROWS_PER_COLUMN) -> float:
    """The share of positions that gives ``rows`` for each column of the problem from so many examples."""
    positions = max(output[0].numel() // weight_of(module).shape[0], 1)
    return min(1.0, rows * matrix_of(module).shape[2] / max(examples * positions, 1))


class Collector:
    """Sums moments of sites over batches. ``examples``: how many there are in all; ``rows``: see `share_of`."""

    def __init__(self, examples: int, seed: int, rows: int = ROWS_PER_COLUMN) -> None:
        self.examples, self.seed, self.rows = examples, seed, rows
        self.moments: dict[str, Moments] = {}
        self.samples: list[tuple[Tensor, Tensor, Tensor]] = []  # of one site: inputs, targets, other terms
        self.held = 0

    def add(
        self, name: str, layer: nn.Module, index: int, value: Tensor, target: Tensor, other: Tensor | None = None
    ) -> None:
        """``value``: the layer's input; ``target``: what its site should give, in the layout of its output;
        ``other``: where a ReLU reads the site, what is added before it."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        positions = positions_of(layer, target, share_of(layer, target, self.examples, self.rows), generator)
        x, y = inputs_of(layer, value, positions), outputs_of(layer, target, positions)
        if name not in self.moments:
            self.moments[name] = Moments.empty(x.shape[0], x.shape[1], y.shape[0])
        self.moments[name].add(x, y)
        if other is None or self.held > MOST_HELD:
            return
        self.samples.append((x, y, outputs_of(layer, other, positions)))
        self.held += x.numel()
        if self.held > MOST_HELD:
            self.samples.clear()

    def rectified(self, name: str, weight: Tensor) -> Moments:
        """Moments with targets that forgive what a ReLU hides: where the dense network's value is negative and so
        is what ``weight`` gives, that is the target."""
        every = self.moments[name]
        total = Moments(every.xx, torch.zeros_like(every.xy), torch.zeros_like(every.yy), every.rows)
        for x, y, other in self.samples:
            matrix, bias = weight[:, :, :-1].to(x.dtype), weight[:, :, -1:].to(x.dtype)
            given = torch.baddbmm(bias, matrix, x).reshape(y.shape)
            hidden = (y + other <= 0) & (given + other <= 0)
            total.add_targets(x, torch.where(hidden, given, y))
        return total


def tapped(replay: Replay, sites: Sequence[Site], index: int) -> Tap:
    """Inputs, values and sums of ``sites`` in one run over batch ``index``, ended where all are known."""
    tap = Tap(replay.modules, sites, replay.fixed)

    def told() -> None:
        if not tap.missing():
            raise Enough

    tap.told = told
    try:
        with tap.hooked():
            replay.run(index)
    finally:
        tap.forget()
    return tap


def dense_moments(replay: Replay, sites: Sequence[Site], examples: int, seed: int) -> dict[str, Moments]:
    """Per layer, its inputs against the *sum* (or the value) it belongs to, in one pass over the dense network.

    ``variance`` of the result is that of the residual stream; its targets are not the layer's own values.
    """
    collector = Collector(examples, seed)
    for index in range(len(replay.batches)):
        tap = tapped(replay, sites, index)
        for name, site in tap.sites.items():
            target = tap.sums[name][1] if site.summed else tap.outputs[name]
            collector.add(name, replay.modules[site.layer], index, tap.inputs[name], target)
    return collector.moments


@dataclass(frozen=True)
class Consumption:
    """A group and the sites that sum over its units: ``columns[layer]``: [units, k] of that layer's matrix."""

    group: Group
    columns: Mapping[str, Tensor]
    first: int  # place of the first of them in the order of sites


def consumptions(model: nn.Module, groups: Sequence[Group], sites: Sequence[Site]) -> list[Consumption]:
    """Groups all of whose consumers are sites: these are the ones whose loss a refit can make good."""
    place = {site.layer: number for number, site in enumerate(sites)}
    modules = dict(model.named_modules())
    found = []
    for group in groups:
        columns: dict[str, Tensor] = {}
        other = False
        for part in group.slices:
            layer, _, key = part.tensor.rpartition(".")
            if part.dim != _input_dim(modules.get(layer), key):
                continue
            if key == "weight" and layer in place:
                columns[layer] = columns_of(modules[layer], part.indices)
            else:
                other = True  # a transposed convolution, an embedding: nothing of ours refits it
        if columns and not other and not group.statistics:
            found.append(Consumption(group, columns, min(place[name] for name in columns)))
    return found


def consumer(affine: Affine, moments: Moments, weight: Tensor, columns: Tensor, scale: float) -> Consumer:
    """What no bias can make good counts where the layer has none."""
    fitted = moments if affine.can_have_bias() else without_bias(moments)
    return Consumer(weight[:, :, :-1], fitted.xx, columns, scale * moments.rows)


def ranked(name: str, consumers: Sequence[Consumer]) -> Ranking:
    try:
        return rank(consumers)
    except ValueError as error:
        raise not_finite(name) from error


def not_finite(name: str) -> UserError:
    return UserError(
        "a layer cannot be refitted: what it gets, or what it should give, is not finite",
        where=name,
        mend="look for NaN and infinities in the calibration data and in the weights before this layer",
    )


def rank_groups(
    dense: nn.Module, found: Sequence[Consumption], sites: Sequence[Site], moments: Mapping[str, Moments]
) -> dict[str, Ranking]:
    """Error against units removed, per group, relative to the variance of the stream each consumer writes to.

    What goes wrong late counts more, by a factor of exp(``LATE``) from the first layer to the last.
    """
    at = {site.layer: affine_at(dense, site) for site in sites}
    counts = place_weights(sites)
    return {
        one.group.name: ranked(
            ", ".join(one.columns),
            [
                consumer(at[n], moments[n], at[n].weight(), c, moments[n].variance / counts[n])
                for n, c in one.columns.items()
            ],
        )
        for one in found
    }


def place_weights(sites: Sequence[Site]) -> dict[str, float]:
    """By what the error of each layer counts: exp(``LATE``) more from the first to the last."""
    return {site.layer: math.exp(LATE * (n / len(sites) - 0.5)) for n, site in enumerate(sites)}


def without_bias(moments: Moments) -> Moments:
    """The same sums without the one below: what can have no bias is fitted through the origin."""
    xx, xy = moments.xx.clone(), moments.xy.clone()
    xx[:, -1, :-1] = xx[:, :-1, -1] = 0
    xy[:, -1] = 0
    return Moments(xx, xy, moments.yy, moments.rows)


class ClosedForm:
    """One recovery: ``model`` starts as a copy of ``dense`` and ends recovered, what was cut at zero."""

    def __init__(
        self,
        dense: nn.Module,
        forward: Forward,
        batches: Sequence[Any],
        examples: int,
        *,
        seed: int = 0,
        damping: float = DAMPING,
        rows: int = ROWS_PER_COLUMN,
        remember: bool = True,
    ) -> None:
        self.sites = find_sites(dense, lambda net: forward(net, batches[0]))
        self.dense, self.model = dense, copy.deepcopy(dense)
        self.forward, self.batches, self.examples = forward, batches, examples
        self.seed, self.damping, self.rows, self.remember = seed, damping, rows, remember
        self.fitted: list[Fitted] = []
        self.kept: dict[str, tuple[int, ...]] = {}
        self.gone: tuple[str, ...] = ()
        self.narrowed: tuple[str, ...] = ()

    def again(self) -> ClosedForm:
        """Another recovery of the same network on the same batches, from the dense network on."""
        fresh = copy.copy(self)
        fresh.model, fresh.fitted, fresh.kept, fresh.gone = copy.deepcopy(self.dense), [], {}, ()
        fresh.narrowed = ()
        return fresh

    def narrow(self, taps: Mapping[str, Tensor]) -> None:
        """``taps[layer]``: bool [columns] of that layer's matrix that go, in every row; the rest is refitted."""
        for layer, columns in taps.items():
            matrix = matrix_of(self.model.get_submodule(layer)).detach()
            matrix[:, :, columns] = 0
        self.narrowed = (*self.narrowed, *taps)

    def without(self, blocks: Sequence[str]) -> None:
        """These modules go whole: with their own parameters at zero they pass on what they get."""
        silence(self.model, blocks)
        self.gone = (*self.gone, *blocks)

    def run(
        self,
        found: Sequence[Consumption],
        count: Mapping[str, int],
        rankings: Mapping[str, Ranking],
        progress: Progress | None = None,
        *,
        refit: bool = True,
    ) -> Recovery:
        """``count[group]``: how many units stay; ``rankings``: for groups that several layers consume.

        Without ``refit`` the units go by their rankings, and no layer is changed otherwise.
        """
        progress = progress or SilentProgress()
        waiting = self._start(found, count, rankings, refit)
        if not refit:
            return Recovery(self.model, dict(self.kept))
        changed = any(len(self.kept.get(g.group.name, ())) < g.group.size for g in found if g not in waiting)
        layers = [site.layer for site in self.sites]
        theirs = Replay(self.dense, self.forward, self.batches, remember=self.remember)
        ours = Replay(self.model, self.forward, self.batches, remember=self.remember)
        progress.start("refitting", len(self.sites))
        for number, site in enumerate(self.sites):
            read = [one for one in waiting if site.layer in one.columns]
            gone = is_inside(site.layer, self.gone)
            changed = changed or bool(read) or gone or site.layer in self.narrowed
            if changed:
                if not gone:
                    self._site(site, read, count, theirs, ours)
                theirs.finish(layers[: number + 1], layers)
                ours.finish(layers[: number + 1], layers)
            progress.advance(site.layer)
        return Recovery(self.model, dict(self.kept), list(self.fitted))

    def _start(
        self, found: Sequence[Consumption], count: Mapping[str, int], rankings: Mapping[str, Ranking], wait: bool
    ) -> list[Consumption]:
        """Drop what several layers consume; the rest is decided when its only consumer is reached."""
        waiting = []
        for one in found:
            name = one.group.name
            removed = one.group.size - count.get(name, one.group.size)
            if wait and removed and len(one.columns) == 1:
                waiting.append(one)
            else:
                self.drop(one.group, rankings[name].order[:removed].tolist() if removed else ())
        return waiting

    @torch.no_grad()
    def drop(self, group: Group, units: Sequence[int]) -> None:
        """Set everything that belongs to these units to zero, in place."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for part in group.slices if len(units) else ():
            gone = torch.from_numpy(part.indices[list(units)].ravel())
            tensors[part.tensor].index_fill_(part.dim, gone, 0)
        self.kept[group.name] = tuple(i for i in range(group.size) if i not in set(units))

    def _site(
        self, site: Site, read: Sequence[Consumption], count: Mapping[str, int], theirs: Replay, ours: Replay
    ) -> None:
        """``read``: groups that this layer alone consumes (several where it reads a concatenation, or heads)."""
        collector = self._collect(site, theirs, ours)
        affine = affine_at(self.model, site)
        before = affine.weight()
        moments = collector.moments[site.layer]
        for one in read:
            full = self._solve(site, collector, before, affine)
            ranking = ranked(site.layer, [consumer(affine, moments, full.weight, one.columns[site.layer], 1.0)])
            self.drop(one.group, ranking.order[: one.group.size - count[one.group.name]].tolist())
        solution, unfitted = self._solve(site, collector, before, affine), affine.weight()
        affine.write(solution.weight, moments)
        scale = max(moments.variance * moments.rows, 1e-30)
        errors = moments.error(unfitted) / scale, moments.error(solution.weight) / scale
        self.fitted.append(Fitted(site.layer, *errors, solution.damping))

    def _solve(self, site: Site, collector: Collector, before: Tensor, affine: Affine) -> Solution:
        columns, rows = self._columns(site), (affine.weight().abs().sum(2, keepdim=True) > 0).double()
        moments = collector.moments[site.layer]
        for _ in range(1 + (ROUNDS if collector.samples else 0)):
            fitted = moments if affine.can_have_bias() else without_bias(moments)
            try:
                found = least_squares(fitted, columns, self.damping, before)
            except ValueError as error:
                raise not_finite(site.layer) from error
            solution = Solution(found.weight * rows, found.damping)
            if collector.samples:
                moments = collector.rectified(site.layer, solution.weight)
        return solution

    def _collect(self, site: Site, theirs: Replay, ours: Replay) -> Collector:
        collector = Collector(self.examples, self.seed, self.rows)
        for index in range(len(self.batches)):
            dense, pruned = tapped(theirs, [site], index), tapped(ours, [site], index)
            target = dense.outputs[site.layer]
            other = torch.zeros_like(target)
            if site.summed:
                other = pruned.sums[site.layer][0]
                target = dense.sums[site.layer][1] - other
            layer, value = ours.modules[site.layer], pruned.inputs[site.layer]
            collector.add(site.layer, layer, index, value, target, other if site.rectified else None)
        return collector

    def _columns(self, site: Site) -> Tensor:
        """bool [columns]: not all of the column's weights were set to zero."""
        return matrix_of(self.model.get_submodule(site.layer)).detach().abs().sum((0, 1)) > 0
