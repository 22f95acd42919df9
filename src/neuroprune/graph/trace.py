"""``trace``: what can be removed from a model, in which units, and what cannot and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import without_collector
from neuroprune.base.registry import nearest
from neuroprune.graph.interpret import interpret
from neuroprune.graph.records import Reason
from neuroprune.graph.resolve import Components, resolve
from neuroprune.graph.solve import System, build_system
from neuroprune.graph.units import Group, Owner, Refusal, group_units


@dataclass(frozen=True)
class Trace:
    """``groups`` can shrink; ``refused`` lists every parameter dimension that cannot, with the reason, or not
    in every way (of the rows of a joint query, key and value heads can go, and none of the three).

    ``system`` holds the equations between counts of kept units and the sizes written in the model's code.
    """

    groups: tuple[Group, ...]
    refused: tuple[Refusal, ...]
    system: System
    owners: tuple[Owner, ...] = field(repr=False, default=())
    components: Components | None = field(repr=False, default=None)
    digest: int = field(repr=False, default=0)
    idle: bool = field(repr=False, default=False)  # some layer does not run in evaluation mode

    def group(self, name: str) -> Group:
        """Raises UserError when there is none of this name."""
        for group in self.groups:
            if group.name == name:
                return group
        names = [group.name for group in self.groups]
        guess = nearest(name, names)
        raise UserError(
            f"there is no group {name!r}",
            mend=f"did you mean {guess!r}?" if guess else f"groups: {', '.join(names)}",
        )


def trace(model: nn.Module, example_inputs: Any) -> Trace:
    """Run ``model`` once without arithmetic and find its removable units. The model is left as it was.

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword arguments, or a list of several such
    calls, whose findings are merged. Raises UserError when the model fails on them or its control flow depends
    on their values.
    """
    with without_collector():
        mode, attributes = interpret(model, example_inputs)
        components = resolve(mode.records)
        parameters = {name for name, _ in model.named_parameters()}
        groups, refused = group_units(mode.records, mode.owners, components, parameters)
        system, stuck = build_system(mode.records, components, groups, mode.owners, attributes.places)
    refused += tuple(_held(groups[i], reason) for i, reason in sorted(stuck.items()))
    return Trace(system.groups, refused, system, tuple(mode.owners), components, mode.digest, mode.idle)


def _held(group: Group, reason: Reason) -> Refusal:
    first = group.slices[0]
    return Refusal(first.tensor, first.dim, reason.operator, reason.module, reason.where, reason.text)
