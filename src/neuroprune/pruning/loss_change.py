"""What the loss does when a unit is off: measured, one unit after another, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.modes import copy_of, evaluation, refresh
from neuroprune.graph.calls import tensors_in
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Group

#: measurements per group and batch; units of larger groups go several at a time and share the change
MOST = 256


class LossChanges:
    """Sums over batches of loss(without the unit) - loss, for every unit of ``trace``.

    ``loss``: (batch, output) -> scalar; None: the squared distance from the dense outputs over their square, for
    data without labels. A unit is off when all parameters that it would take along are zero, as under masks. Costs
    a forward pass per batch and unit (at most ``MOST`` per group; units that go together are of about equal l2
    norm). ``model`` is copied and never written to.
    """

    def __init__(
        self, model: nn.Module, trace: Trace, forward: Callable[[nn.Module, Any], Any], loss: Any = None
    ) -> None:
        self.model, self.forward = copy_of(model), forward
        self.loss: Callable[[Any, Any, Any], float] = divergence
        if loss is not None:
            self.loss = lambda batch, output, dense: float(loss(batch, output)) - float(loss(batch, dense))
        self.parameters = dict(self.model.named_parameters())
        self.together = [(group, self._portions(group)) for group in trace.groups]
        self.totals = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in trace.groups}
        self.count = 0

    def _portions(self, group: Group) -> list[np.ndarray]:
        """Units in the order of their norms, in at most ``MOST`` portions."""
        squares = sum(
            parameter.detach().double().square().transpose(0, dim)[indices].flatten(1).sum(1)
            for parameter, dim, indices in self._parts(group, np.arange(group.size))
        )
        order = torch.as_tensor(squares).argsort(stable=True).cpu().numpy()
        return np.array_split(order, min(group.size, MOST))

    def _parts(self, group: Group, units: np.ndarray) -> Iterator[tuple[Tensor, int, Tensor]]:
        """Parameters, dimension and indices of ``units``: [units, k]."""
        for part in group.slices:
            if part.tensor in self.parameters:
                parameter = self.parameters[part.tensor]
                yield parameter, part.dim, torch.as_tensor(part.indices[units], device=parameter.device)

    def add(self, batch: Any, dense: Any) -> None:
        """``dense``: what the model gives for the batch."""
        self.count += 1
        with evaluation(self.model):
            for group, portions in self.together:
                for units in portions:
                    with self._off(group, units):
                        output = self.forward(self.model, batch)
                    self.totals[group.name][units] += self.loss(batch, output, dense) / len(units)

    @contextmanager
    def _off(self, group: Group, units: np.ndarray) -> Iterator[None]:
        parts = [(p, dim, indices.flatten()) for p, dim, indices in self._parts(group, units)]
        saved = [p.index_select(dim, indices) for p, dim, indices in parts]
        try:
            for parameter, dim, indices in parts:
                parameter.index_fill_(dim, indices, 0)
            refresh(self.model)
            yield
        finally:
            for (parameter, dim, indices), values in zip(parts, saved, strict=True):
                parameter.index_copy_(dim, indices, values)

    def means(self) -> dict[str, Tensor]:
        """By group, the mean over the batches: float64 [units]."""
        return {name: total / max(self.count, 1) for name, total in self.totals.items()}


def divergence(batch: Any, output: Any, dense: Any) -> float:
    """|output - dense|^2 / |dense|^2 over all floating outputs."""
    dense_values, values = ([t.double() for t in tensors_in(y) if t.is_floating_point()] for y in (dense, output))
    gap = sum(float((a - b).square().sum()) for a, b in zip(dense_values, values, strict=True))
    return gap / (sum(float(value.square().sum()) for value in dense_values) or 1.0)
