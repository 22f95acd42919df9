"""How far a changed network is from the dense one on the same examples, and how right it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.calls import map_tensors, tensors_in
from neuroprune.recover.replay import Forward
from neuroprune.tasks.batches import batch_length
from neuroprune.tasks.make import SplitBlind
from neuroprune.tasks.task import Accuracy, Batches, class_scores


@dataclass(frozen=True)
class Judged:
    """As in `neuroprune.budget.curves.Point`."""

    divergence: float | None
    agreement: float | None
    metric: float | None


class Judge:
    """Holds the dense network's outputs on ``batches``. ``evaluate``: the user's own figure, higher is better.

    ``labelled``: the batches hold class indices that fit the outputs, and ``labels`` allows to look at them.
    ``dense``: the dense network's ``metric``, in ``unit``. Raises UserError where its outputs are not finite.
    """

    def __init__(
        self,
        dense: nn.Module,
        forward: Forward,
        batches: Sequence[Any],
        evaluate: Callable[[nn.Module], float] | None = None,
        labels: bool = True,
    ) -> None:
        self.forward, self.batches = forward, batches
        self.evaluate = None if evaluate is None else SplitBlind(evaluate)
        self.examples = sum(batch_length(batch) for batch in batches)
        self.outputs = [_kept(self._run(dense, batch)) for batch in batches]
        _check_finite(self.outputs)
        self.labelled = labels and all(
            _has_labels(batch, output) for batch, output in zip(batches, self.outputs, strict=True)
        )
        self.metric, self.unit = ("metric", "") if evaluate else ("accuracy", "%") if self.labelled else ("", "")
        self.dense = self(dense).metric

    def _run(self, model: nn.Module, batch: Any) -> Any:
        with evaluation(model):
            return self.forward(model, batch)

    def __call__(self, model: nn.Module) -> Judged:
        gap = energy = 0.0
        same = predictions = hits = count = 0
        for batch, dense in zip(self.batches, self.outputs, strict=True):
            output = self._run(model, batch)
            gap, energy = gap + _gap(output, dense), energy + _energy(dense)
            scores, wanted = class_scores(output), class_scores(dense)
            if scores is not None and wanted is not None:
                equal = scores.argmax(1) == wanted.argmax(1)
                same, predictions = same + int(equal.sum()), predictions + equal.numel()
            if self.labelled:
                right, of = Accuracy.hits(batch, output)
                hits, count = hits + right, count + of
        metric = 100.0 * hits / count if count else None
        if self.evaluate is not None:
            with evaluation(model):
                metric = self.evaluate(model, cast(Batches, ()))
        divergence = gap / (energy or 1.0)
        agreement = 100.0 * same / predictions if predictions else None
        return Judged(divergence if math.isfinite(divergence) else None, agreement, metric)


def _has_labels(batch: Any, output: Any) -> bool:
    """The second thing in the batch is a class index for every score vector of the output."""
    scores = class_scores(output)
    if scores is None or not isinstance(batch, tuple | list) or len(batch) < 2:
        return False
    wanted = batch[1]
    if not isinstance(wanted, Tensor) or wanted.is_floating_point() or wanted.dtype is torch.bool:
        return False
    return wanted.shape == (scores.shape[0], *scores.shape[2:])


def _kept(output: Any) -> Any:
    """Memory of its own: a network may write into what it gave."""
    return map_tensors(lambda tensor: tensor.clone(), output)


def _values(output: Any) -> list[Tensor]:
    return [tensor.double() for tensor in tensors_in(output) if tensor.is_floating_point()]


def _gap(output: Any, dense: Any) -> float:
    pairs = zip(_values(output), _values(dense), strict=True)
    return sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)


def _energy(output: Any) -> float:
    return sum(float(value.square().sum()) for value in _values(output))


def _check_finite(outputs: Sequence[Any]) -> None:
    for number, output in enumerate(outputs):
        if not all(bool(value.isfinite().all()) for value in _values(output)):
            raise UserError(
                "the dense network's output on the data is not finite",
                where=f"batch {number}",
                mend="check the data and the weights for NaN",
            )
