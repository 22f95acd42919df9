"""A task without labels: what counts is that the small network says what the dense one says."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.modes import evaluation
from neuroprune.tasks.task import Batches, Task, class_scores, logits_of


class Agreement:
    """``evaluate(model, batches)``: how far ``model`` agrees with ``dense``, in percent.

    For class scores [N, classes, ...]: the share of predictions (the largest score) that are the same. For any
    other output: 100 times one less the squared difference over the variance of the dense output, at least 0.
    ``dense`` is copied; what it says of a split is computed once.
    """

    def __init__(self, dense: nn.Module, forward: Any) -> None:
        self.dense, self.forward = copy.deepcopy(dense).eval(), forward
        self._said: dict[int, tuple[Batches, list[Tensor]]] = {}  # the batches are held: their id stays theirs

    def __call__(self, model: nn.Module, batches: Batches) -> float:
        if id(batches) not in self._said:
            self._said[id(batches)] = batches, self._outputs(self.dense, batches)
        wanted = self._said[id(batches)][1]
        given = self._outputs(model, batches)
        if all(class_scores(scores) is not None for scores in wanted):
            same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(given, wanted, strict=True))
            return 100.0 * same / max(sum(scores[:, 0].numel() for scores in wanted), 1)
        lost = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(given, wanted, strict=True))
        spread = torch.cat([scores.double().flatten() for scores in wanted])
        return max(0.0, 100.0 * (1 - lost / max(float((spread - spread.mean()).square().sum()), 1e-30)))

    def _outputs(self, model: nn.Module, batches: Batches) -> list[Tensor]:
        with evaluation(model):
            return [logits_of(self.forward(model, batch)).detach() for batch in batches.epoch(None)]


def without_labels(task: Task, dense: nn.Module) -> Task:
    """The same data, whose labels nobody looks at; networks are judged by their agreement with ``dense``."""
    judge = Agreement(dense, task.forward)
    return replace(task, has_labels=False, evaluate=judge, metric="agreement", metric_unit="%")
