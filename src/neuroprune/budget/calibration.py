"""What calibration batches tell: example inputs, how many are needed, and whether the data can be right."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from neuroprune.base.modes import evaluation
from neuroprune.graph.calls import map_tensors, tensors_in
from neuroprune.recover.replay import Forward
from neuroprune.tasks.batches import batch_length


def example_of(model: nn.Module, forward: Forward, batch: Any) -> Any:
    """What ``forward`` hands to the model, two examples of it, as `neuroprune.trace` takes it."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = model.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        with evaluation(model):
            forward(model, batch)
    finally:
        handle.remove()
    args, kwargs = map_tensors(lambda x: x[:2] if x.dim() else x, calls[0])
    if not kwargs:
        return args
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return dict(bound.arguments)


def batches_with(batches: Sequence[Any], examples: float, first: int = 0) -> list[Any]:
    """From batch ``first`` on as many as hold ``examples``, or all; ``batches`` may make them when asked."""
    found: list[Any] = []
    held = 0
    for number in range(first, len(batches)):
        if held >= examples:
            break
        found.append(batches[number])
        held += batch_length(found[-1])
    return found


def doubts(output: Any) -> list[str]:
    """Why the calibration data may not be what the network was trained on; empty where nothing speaks for it."""
    scores = next(iter(tensors_in(output)), None)
    if scores is None or scores.dim() != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        return []
    share = float(scores.argmax(1).bincount().max()) / scores.shape[0]
    sure = float(scores.float().softmax(1).max(1).values.mean())
    if scores.shape[0] >= 16 and (share > 0.9 or sure < 1.5 / scores.shape[1]):
        return [
            f"the dense network gives {share:.0%} of the calibration examples the same class, with a mean "
            f"confidence of {sure:.0%}: are they scaled and normalised as in training?"
        ]
    return []
