"""What a trace collects: ties, pins, consumed labels, and where in the user's code each pin happened."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuroprune.graph.labels import FIXED

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Reason:
    """Why labels may not be cut: operator, module path, ``file:line`` of the user's code, one sentence."""

    operator: str
    module: str
    where: str
    text: str


@dataclass
class Records:
    """Everything the rules say about labels during one trace."""

    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    pins: list[tuple[np.ndarray, Reason]] = field(default_factory=list)
    consumed: list[np.ndarray] = field(default_factory=list)

    def tie(self, a: Tensor, b: Tensor, reason: Reason) -> None:
        """Elementwise: these two labels go together. A label tied to FIXED is pinned."""
        pairs = np.stack(np.broadcast_arrays(a.numpy(), b.numpy())).reshape(2, -1)
        left, right = np.unique(pairs, axis=1)
        self._pin(np.concatenate([left[right == FIXED], right[left == FIXED]]), reason)
        both = (left != FIXED) & (right != FIXED) & (left != right)
        if both.any():
            self.ties.append((left[both], right[both]))

    def pin(self, labels: Tensor, reason: Reason) -> None:
        self._pin(np.unique(labels.numpy()), reason)

    def _pin(self, labels: np.ndarray, reason: Reason) -> None:
        labels = labels[labels != FIXED]
        if labels.size:
            self.pins.append((labels, reason))

    def consume(self, labels: Tensor) -> None:
        """A contraction sums over these labels: removing them removes terms of the sum."""
        self.consumed.append(np.unique(labels.numpy()))


def user_line() -> str:
    """``file:line`` of the innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, _OURS, "<")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"
