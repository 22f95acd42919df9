"""Which parameters make the dimensions of a model's output."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from neuroprune.base.modes import without_collector
from neuroprune.graph.interpret import interpret
from neuroprune.graph.resolve import resolve


def reaches_output(model: nn.Module, example_inputs: Any) -> tuple[tuple[str, int], ...]:
    """(name, dimension) of every parameter and buffer of which an index is one of the output's.

    They are those that the trace pins because they reach the output: the rows of a classifier, and what is added
    to or normalised with its scores. Raises UserError as `trace` does. The model is left as it was.
    """
    with without_collector():
        mode, _ = interpret(model, example_inputs)
        components = resolve(mode.records)
    pinned = [labels for labels, reason in mode.records.pins if reason.operator == "output"]
    if not pinned:
        return ()
    reached = np.zeros(components.start.size - 1, dtype=bool)
    reached[components.bases(np.concatenate(pinned))[1]] = True
    return tuple(
        (name, dim)
        for name, dim, first, count in mode.owners
        if reached[components.bases(np.arange(first, first + count))[1]].any()
    )
