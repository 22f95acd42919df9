"""A point chosen step by step, as AMC's agent does it: what it sees, and the wall that the budget is.

He et al. 2018, AMC: AutoML for Model Compression and Acceleration on Mobile Devices. A step is a group of units,
not a layer, because layers that are added share their channels; blocks and kernels, where the space has any, come
before the groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.search.layer_facts import LayerFacts
from neuroprune.search.space import Point, Space, Width, within

#: what a step can be about, in the order of the numbers that stand for them
STEP_KINDS = ("convolution", "linear", "other", "kernel", "block")
#: the entries of a state, each in [0, 1]
STATE = ("index", "kind", "inputs", "outputs", "stride", "kernel", "weights", "reduced", "rest", "last action")
#: an action from here on keeps a block, or a kernel
KEEPS = 0.5
#: costs of half-made points that are remembered
REMEMBERED = 4096


@dataclass(frozen=True)
class Choice:
    """One step. ``width``: the group and ``number`` its place in the space; None for a block or a kernel."""

    name: str
    facts: LayerFacts
    width: Width | None = None
    number: int = -1


class Walk:
    """``take`` one action after another until ``done``; then ``point()`` meets the budget.

    ``state()``: float32 [10], in the order of `STATE`: the number of the step; what it is about; the layer's input
    channels, output channels, stride, kernel and number of weights, each over the largest of the network;
    ``reduced``: the share of the dense network's cost that the steps so far took away; ``rest``: the share that
    those to come, this one included, can take away at most; the last action. Cost is of the budget's first kind,
    multiply-accumulates without a budget.
    """

    def __init__(self, space: Space, budget: Budget) -> None:
        """Raises UserError where the budget is out of reach."""
        space.check(budget)
        self.space, self.budget, self.limits = space, budget, space.limits(budget)
        self.choices = _choices(space)
        self.kind = next(iter(self.limits), "macs")
        self.dense = space.dense_cost()[self.kind]
        self._fixed = _fixed_state(self.choices)
        self._cost = lru_cache(REMEMBERED)(self._cost_of)
        self.restart()

    def restart(self) -> None:
        self.taken: list[float] = []
        self.last = 1.0
        self._pass_what_is_gone()

    @property
    def done(self) -> bool:
        return len(self.taken) == len(self.choices)

    def state(self) -> np.ndarray:
        """Of the step to come; after the last one, that one again with what became of it."""
        whole, least = (self._cost((*self.taken, *self._left(share)))[self.kind] for share in (1.0, 0.0))
        row = self._fixed[min(len(self.taken), len(self.choices) - 1)]
        moving = [1.0 - whole / self.dense, (whole - least) / self.dense, self.last]
        return np.array([*row, *moving], np.float32).clip(0.0, 1.0)

    def take(self, action: float) -> float:
        """Go on by one step: the share of the group that is to stay; from 0.5 on a block or kernel stays.

        Returns the share that does stay: an allowed count, and never so many that what follows could not meet the
        budget any more (1 or 0 for blocks and kernels). Raises UserError when the walk is done and for an action
        that is not finite.
        """
        if self.done:
            raise UserError("the walk is over", value=action, mend="reset the environment before the next step")
        if not math.isfinite(action):
            raise UserError("the agent's action is not a number", value=action, mend="lower its learning rate")
        self.last = self._clipped(min(max(action, 0.0), 1.0))
        self.taken.append(self.last)
        self._pass_what_is_gone()
        return self.last

    def point(self) -> Point:
        """What the steps came to. It meets the budget."""
        point = self.space.round(self._point((*self.taken, *self._left(1.0))))
        if within(self.space.cost(point), self.limits):
            return point
        return self._mended(point)

    def actions_of(self, point: Point) -> list[float]:
        """Of every choice, what leads to ``point``; the steps that the walk passes over included."""
        blocks = [float(name not in point.gone) for name in self.space.blocks]
        kernels = [float(name not in point.shrunk) for name in self.space.kernels]
        return [*blocks, *kernels, *point.shares]

    def _clipped(self, action: float) -> float:
        """The largest allowed share up to the one nearest to ``action`` after which the budget can be met."""
        options = _options(self.choices[len(self.taken)], action)
        if self._reachable(options[-1]):
            return options[-1]
        low, high = 0, len(options) - 1  # costs grow with the share; the least one is taken where none will do
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._reachable(options[middle]) else (low, middle)
        return options[low]

    def _reachable(self, share: float) -> bool:
        taken = (*self.taken, share)
        return within(self._cost((*taken, *[0.0] * (len(self.choices) - len(taken)))), self.limits)

    def _left(self, share: float) -> list[float]:
        return [share] * (len(self.choices) - len(self.taken))

    def _cost_of(self, shares: tuple[float, ...]) -> dict[str, float]:
        return self.space.cost(self._point(shares))

    def _point(self, shares: Sequence[float]) -> Point:
        """``shares``: of every choice."""
        blocks, kernels = self.space.blocks, tuple(self.space.kernels)
        first, second = len(blocks), len(blocks) + len(kernels)
        gone = tuple(name for name, share in zip(blocks, shares[:first], strict=True) if share < KEEPS)
        shrunk = tuple(name for name, share in zip(kernels, shares[first:second], strict=True) if share < KEEPS)
        return self.space.clip(Point(tuple(shares[second:]), gone, shrunk))

    def _pass_what_is_gone(self) -> None:
        """Steps about what lies in a block that went are none."""
        while not self.done and self._is_gone(self.choices[len(self.taken)]):
            self.taken.append(1.0)

    def _is_gone(self, choice: Choice) -> bool:
        gone = [b for b, share in zip(self.space.blocks, self.taken, strict=False) if share < KEEPS]
        if choice.width is None:
            return any(choice.name.startswith(f"{block}.") for block in gone)
        return any(choice.number in self.space.members[block] for block in gone)

    def _mended(self, point: Point) -> Point:
        """Where counts that the model's code couples undid what the steps had kept to."""
        try:
            return self.space.scaled_to(point, self.budget)
        except UserError:
            least = self.space.smallest(self.space.blocks, tuple(self.space.kernels))
            return self.space.scaled_to(least, self.budget)


def _choices(space: Space) -> tuple[Choice, ...]:
    blocks = [Choice(name, LayerFacts("block", weights=_weights_in(space, name))) for name in space.blocks]
    kernels = [Choice(name, LayerFacts("kernel", weights=_weights_of(space, name))) for name in space.kernels]
    widths = [Choice(width.name, width.layer, width, number) for number, width in enumerate(space.widths)]
    return (*blocks, *kernels, *widths)


def _weights_in(space: Space, block: str) -> int:
    return round(sum(space.costs.of["params"][n](1.0, 1.0) for n in space.inside[block]))


def _weights_of(space: Space, kernel: str) -> int:
    numbers = [n for n, layer in enumerate(space.costs.layers) if layer.name == f"{kernel}.weight"]
    return round(sum(space.costs.of["params"][n](1.0, 1.0) for n in numbers))


def _fixed_state(choices: Sequence[Choice]) -> np.ndarray:
    """[choices, 7]: the entries of a state that no action changes."""
    facts = [choice.facts for choice in choices]
    outputs = [choice.width.size if choice.width else 0 for choice in choices]
    columns = np.array(
        [(f.inputs, size, f.stride, f.kernel, f.weights) for f, size in zip(facts, outputs, strict=True)], float
    )
    index = np.arange(len(choices)) / max(len(choices) - 1, 1)
    kind = np.array([STEP_KINDS.index(f.kind) for f in facts]) / (len(STEP_KINDS) - 1)
    return np.column_stack([index, kind, columns / np.maximum(columns.max(axis=0), 1.0)])


def _options(choice: Choice, action: float) -> list[float]:
    """Allowed shares, ascending, up to the one nearest to ``action``."""
    if choice.width is None:
        return [0.0, 1.0] if action >= KEEPS else [0.0]
    width = choice.width
    nearest = min(width.kept, key=lambda count: (abs(count - action * width.size), -count))
    return [count / width.size for count in width.kept if count <= nearest]
