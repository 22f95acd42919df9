"""Each rule, made deliberately wrong, is caught by the oracle: the cut is refused, never returned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph.nets import (
    ChannelShuffle,
    Concat,
    Depthwise,
    FlipAdd,
    Grouped,
    PadShortcut,
    PermuteFlatten,
    Residual,
    RollChannels,
)
from torch import nn

from neuroprune.base.errors import CutRefused
from neuroprune.graph.labels import Factor, Factors
from neuroprune.graph.rules import RULES, OpCall, movement
from neuroprune.graph.rules._base import Rule
from neuroprune.pruning import prune


def reversed_labels(rule: Rule) -> Rule:
    """The right rule, but its output's labels run backwards."""

    def wrong(op: OpCall) -> list[Factors]:
        return [tuple(Factor(f.labels.flip(tuple(f.dims)), f.dims) for f in out) for out in rule(op)]

    return wrong


def without_ties(rule: Rule) -> Rule:
    """The right rule, but it forgets that operands must go together."""

    def wrong(op: OpCall) -> list[Factors]:
        op.records = type(op.records)()  # what it ties and pins is written into the void
        consumed = op.records.consumed
        out = rule(op)
        _REAL[-1].consumed.extend(consumed)
        return out

    return wrong


_REAL: list = []


def keeping_records(wrong: Rule) -> Rule:
    def run(op: OpCall) -> list[Factors]:
        _REAL.append(op.records)
        return wrong(op)

    return run


def first_operand_only(rule: Rule) -> Rule:
    """Concatenation that takes all labels from a padded first operand."""

    def wrong(op: OpCall) -> list[Factors]:
        return [tuple(Factor(f.labels.roll(1, min(f.dims)), f.dims) for f in out) for out in rule(op)]

    return wrong


IMAGE = (2, 3, 6, 6)
MUTANTS: list[tuple[str, Callable[[Rule], Rule], type[nn.Module], tuple[int, ...]]] = [
    ("add", without_ties, Residual, IMAGE),
    ("add", without_ties, FlipAdd, IMAGE),
    ("relu_", reversed_labels, Residual, IMAGE),
    ("native_batch_norm", without_ties, Residual, IMAGE),
    ("native_batch_norm", reversed_labels, Depthwise, IMAGE),
    ("convolution", without_ties, Residual, IMAGE),
    ("convolution", reversed_labels, Depthwise, IMAGE),
    ("convolution", without_ties, Grouped, (2, 3, 9)),
    ("cat", reversed_labels, Concat, IMAGE),
    ("cat", first_operand_only, Concat, IMAGE),
    ("flip", reversed_labels, FlipAdd, IMAGE),
    ("permute", reversed_labels, PermuteFlatten, IMAGE),
    ("_unsafe_view", reversed_labels, PermuteFlatten, IMAGE),
    ("constant_pad_nd", first_operand_only, PadShortcut, IMAGE),
    ("mean", reversed_labels, Residual, IMAGE),
    ("addmm", without_ties, Residual, IMAGE),
    ("transpose", reversed_labels, ChannelShuffle, IMAGE),
    ("roll", lambda _: movement.movement, RollChannels, IMAGE),
]


def cut_four_times(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    """A mutant may be right by luck for one choice of units, not for four."""
    for seed in range(4):
        prune(net(), torch.randn(shape), ratio=0.4, criterion="random", on_refuse="raise", seed=seed)


@pytest.mark.parametrize(("operator", "mutate", "net", "shape"), MUTANTS)
def test_a_wrong_rule_is_caught(monkeypatch, operator, mutate, net, shape) -> None:
    cut_four_times(net, shape)
    rule = RULES.get(operator) or RULES["clone"]  # relu_ and add have no rule of their own: elementwise
    monkeypatch.setitem(RULES, operator, keeping_records(mutate(rule)))
    with pytest.raises(CutRefused):
        cut_four_times(net, shape)
