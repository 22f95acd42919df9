"""``trace``: what can be removed from a model, in which units, and what cannot and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from neuroprune.graph.interpret import interpret
from neuroprune.graph.units import Group, Refusal, group_units


@dataclass(frozen=True)
class Trace:
    """``groups`` can shrink; ``refused`` lists every parameter dimension that cannot, with the reason."""

    groups: tuple[Group, ...]
    refused: tuple[Refusal, ...]

    def group(self, name: str) -> Group:
        return next(g for g in self.groups if g.name == name)


def trace(model: nn.Module, example_inputs: Any) -> Trace:
    """Run ``model`` once on fake tensors and find its removable units. The model is left as it was.

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword arguments. Raises UserError when
    the model fails on them or its control flow depends on their values.
    """
    mode = interpret(model, example_inputs)
    return Trace(*group_units(mode.records, mode.owners, mode.next_label))
