"""Operators that look at a tensor only for its type or device: the new tensor owes it nothing."""

from __future__ import annotations

from neuroprune.graph.labels import NO_LABELS, Labels
from neuroprune.graph.rules._base import OpCall, rule


@rule("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
def creation(op: OpCall) -> list[Labels]:
    for value in op.args:
        op.take_all(value)
    return [NO_LABELS for _ in op.outputs]
