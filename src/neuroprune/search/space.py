"""What a search may choose: how many units of each group stay, which blocks go, which kernels become 1x1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.registry import nearest
from neuroprune.budget.problem import Costs
from neuroprune.graph.solve import System
from neuroprune.search.layer_facts import LayerFacts

#: halvings of the factor by which shares are scaled to a budget: far finer than one unit of any group
HALVINGS = 40
#: of a random point's blocks and kernels, the share that goes
CHANGED = 0.15


@dataclass(frozen=True)
class Width:
    """A group of units. ``kept``: how many may stay, ascending, the last being all ``size``; ``errors[i]``: what
    the criterion says is lost when its first i units are gone, [size + 1]; empty where nothing is known.
    ``layer``: where the units are made."""

    name: str
    size: int
    kept: tuple[int, ...]
    errors: tuple[float, ...] = ()
    layer: LayerFacts = field(default_factory=LayerFacts)


@dataclass(frozen=True)
class Point:
    """One choice. ``shares[n]``: of the units of the space's n-th group that stay, in (0, 1]; ``gone``: blocks
    that go; ``shrunk``: convolutions whose kernels become 1x1; both sorted."""

    shares: tuple[float, ...]
    gone: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"shares": list(self.shares), "gone": list(self.gone), "shrunk": list(self.shrunk)}

    @classmethod
    def from_json(cls, data: Any) -> Point:
        """Raises UserError for what is no point."""
        try:
            shares = tuple(float(share) for share in data["shares"])
            return cls(shares, tuple(map(str, data["gone"])), tuple(map(str, data["shrunk"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"this is no point of a search: {error!r}", value=data, mend="take the file again from the search"
            ) from error


@dataclass(frozen=True, eq=False)
class Space:
    """``widths``: in the order in which their layers run. ``blocks``: modules that can go whole. ``kernels``:
    convolution -> the share of its weights that a 1x1 kernel keeps. ``costs``: of the layers, per kind of budget.
    ``inside[block]``: numbers of the layers in it; ``members[block]``: numbers of the groups that lie within it;
    ``block_errors[block]``: what is lost without it, as ``Width.errors``.
    ``system``: equations between counts that the model's code asks for.
    """

    widths: tuple[Width, ...]
    costs: Costs
    blocks: tuple[str, ...] = ()
    kernels: Mapping[str, float] = field(default_factory=dict)
    inside: Mapping[str, frozenset[int]] = field(default_factory=dict)
    members: Mapping[str, frozenset[int]] = field(default_factory=dict)
    block_errors: Mapping[str, float] = field(default_factory=dict)
    system: System | None = None

    def __post_init__(self) -> None:
        if not self.widths and not self.blocks and not self.kernels:
            raise UserError(
                "there is nothing to search in this network",
                value="no group, block or kernel may change",
                mend="keep fewer layers whole, or recover trials by batch-norm or none, which need no refit",
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of budgets whose costs are known."""
        return tuple(self.costs.of)

    def whole(self) -> Point:
        """The dense network."""
        return Point((1.0,) * len(self.widths))

    def smallest(self, gone: Sequence[str] = (), shrunk: Sequence[str] = ()) -> Point:
        """As few units of every group as may stay."""
        return Point(tuple(w.kept[0] / w.size for w in self.widths), tuple(sorted(gone)), tuple(sorted(shrunk)))

    def clip(self, point: Point) -> Point:
        """Every share between the group's least and 1. Raises UserError for shares that are not finite, a wrong
        number of them, and names that the space does not have."""
        self._check(point)
        shares = (min(1.0, max(w.kept[0] / w.size, s)) for s, w in zip(point.shares, self.widths, strict=True))
        return Point(tuple(shares), tuple(sorted(set(point.gone))), tuple(sorted(set(point.shrunk))))

    def round(self, point: Point) -> Point:
        """The nearest point that a network can have: whole units, allowed counts, sizes that fit. What lies in a
        block that goes stays as it is, so that equal networks are equal points."""
        point = self.clip(point)
        shrunk = tuple(name for name in point.shrunk if not any(_is_in(name, block) for block in point.gone))
        inside = self._within(point.gone)
        shares = [1.0 if n in inside else share for n, share in enumerate(point.shares)]
        counts = self._settled([_nearest(w, s * w.size) for w, s in zip(self.widths, shares, strict=True)])
        return Point(tuple(n / w.size for n, w in zip(counts, self.widths, strict=True)), point.gone, shrunk)

    def counts(self, point: Point) -> tuple[int, ...]:
        """How many units of each group stay in the network of ``round(point)``."""
        shares = self.round(point).shares
        return tuple(round(s * w.size) for s, w in zip(shares, self.widths, strict=True))

    def key(self, point: Point) -> tuple[object, ...]:
        """Equal for points of the same network."""
        rounded = self.round(point)
        return (*(round(s * w.size) for s, w in zip(rounded.shares, self.widths, strict=True)), *rounded.gone,
                *(f"{name}:1x1" for name in rounded.shrunk))  # fmt: skip

    def cost(self, point: Point) -> dict[str, float]:
        """What the network of ``round(point)`` costs, per kind, as the layers' costs say; nothing is run."""
        rounded = self.round(point)
        sizes = zip(rounded.shares, self.widths, strict=True)
        removed = np.array([w.size - round(s * w.size) for s, w in sizes], dtype=np.int64)
        gone = frozenset().union(*(self.inside[block] for block in rounded.gone))
        factors = {f"{name}.weight": self.kernels[name] for name in rounded.shrunk}
        return {
            kind: self.costs.fixed.get(kind, 0.0)
            + sum(
                self.costs.layer(kind, n, removed) * factors.get(layer.name, 1.0)
                for n, layer in enumerate(self.costs.layers)
                if n not in gone
            )
            for kind in self.kinds
        }

    def dense_cost(self) -> dict[str, float]:
        return self.cost(self.whole())

    def limits(self, budget: Budget) -> dict[str, float]:
        """What each kind may come to. Raises UserError for a kind whose costs the space does not know."""
        dense = self.dense_cost()
        for limit in budget.limits:
            if limit.kind not in dense:
                raise UserError(
                    f"this search knows no cost of the kind {limit.kind!r}",
                    value=str(limit),
                    mend=f"use one of {', '.join(dense)}",
                )
        return {limit.kind: limit.absolute(dense[limit.kind]) for limit in budget.limits}

    def fits(self, point: Point, budget: Budget) -> bool:
        return within(self.cost(point), self.limits(budget))

    def check(self, budget: Budget) -> None:
        """Raises UserError where even the smallest network costs more."""
        limits = self.limits(budget)
        least = self.cost(self.smallest(self.blocks, tuple(self.kernels)))
        for kind, limit in limits.items():
            if least[kind] > limit * (1 + 1e-9):
                raise UserError(
                    f"the budget for {kind} is out of this search's reach",
                    value=f"{limit:.6g}, and the least is {least[kind]:.6g}",
                    mend="raise it, lower the minimum of kept units, or let more layers be cut",
                )

    def scaled_to(self, point: Point, budget: Budget) -> Point:
        """``point``, rounded, all shares multiplied by one factor, the largest at which every limit holds.

        Points that are compared so cost about the same. Blocks and kernels are left as they are. Raises UserError
        where no factor is small enough.
        """
        point, limits = self.clip(point), self.limits(budget)

        def at(factor: float) -> Point:
            return self.round(replace(point, shares=tuple(s * factor for s in point.shares)))

        low, high = 0.0, 1.0 / min(point.shares, default=1.0)
        if within(self.cost(at(high)), limits):
            return at(high)
        if not within(self.cost(at(low)), limits):
            raise UserError(
                "no width of this network meets the budget", value=str(budget),
                mend="raise it, lower the minimum of kept units, or let blocks go",
            )  # fmt: skip
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if within(self.cost(at(middle)), limits) else (low, middle)
        return at(low)

    def random(self, generator: np.random.Generator) -> Point:
        """Shares uniform between each group's least and 1; of blocks and kernels few go."""
        least = np.array([w.kept[0] / w.size for w in self.widths])
        shares = tuple((least + (1 - least) * generator.random(least.size)).tolist())
        gone = tuple(
            b for b, u in zip(self.blocks, generator.random(len(self.blocks)), strict=True) if u < CHANGED
        )
        drawn = zip(self.kernels, generator.random(len(self.kernels)), strict=True)
        return self.clip(Point(shares, gone, tuple(name for name, u in drawn if u < CHANGED)))

    def removed_share(self, point: Point) -> float:
        """Of the parameters, what is gone: S1's sparsity."""
        return 1.0 - self.cost(point)["params"] / self.dense_cost()["params"]

    def _within(self, gone: Sequence[str]) -> frozenset[int]:
        return frozenset().union(*(self.members[block] for block in gone))

    def _settled(self, counts: list[int]) -> list[int]:
        """The nearest counts for which the sizes in the model's code can be made right."""
        if self.system is None or not self.system.equations:
            return counts
        wanted = {w.name: n for w, n in zip(self.widths, counts, strict=True)}
        if self.system.edits(wanted) is not None:
            return counts
        chosen = self.system.choose(wanted, {w.name: list(w.kept) for w in self.widths})
        return [chosen[w.name] for w in self.widths]

    def _check(self, point: Point) -> None:
        if len(point.shares) != len(self.widths):
            raise UserError(
                "the point is of another space", value=f"{len(point.shares)} shares, {len(self.widths)} groups",
                mend="make it with this space",
            )  # fmt: skip
        for width, share in zip(self.widths, point.shares, strict=True):
            if not math.isfinite(share):
                raise UserError("a share is not finite", where=width.name, value=share, mend="give 0 < share <= 1")
        for names, known, what in ((point.gone, self.blocks, "block"), (point.shrunk, self.kernels, "kernel")):
            for name in names:
                if name not in known:
                    guess = nearest(name, known)
                    hint = f"did you mean {guess!r}? " if guess else ""
                    raise UserError(
                        f"{name!r} is no {what} of this space", mend=f"{hint}known: {', '.join(known)}"
                    )


def within(costs: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(costs[kind] <= limit * (1 + 1e-9) for kind, limit in limits.items())


def _nearest(width: Width, wanted: float) -> int:
    """The allowed count nearest to ``wanted``, of two the larger."""
    return min(width.kept, key=lambda count: (abs(count - wanted), -count))


def _is_in(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")
