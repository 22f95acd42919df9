"""What a trace collects: ties, pins, consumed labels, and where in the user's code each pin happened."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from neuroprune.graph.labels import FIXED

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])

#: the name of our functions that call the user's model: no frame outside of them is the model's code
BOUNDARY = "run_users_model"


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
    """``file:line`` of the innermost running frame of the model's code: neither torch's nor ours.

    Empty where the operator was called by PyTorch's own layers alone (an ``nn.Sequential``, say).
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != BOUNDARY:
        if _is_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def user_line_of(error: BaseException) -> str:
    """``file:line`` of the last frame of an error's traceback that is the model's own code; empty without one."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = max((i for i, f in enumerate(frames) if f.name == BOUNDARY), default=-1)
    own = [f for f in frames[inside + 1 :] if _is_users(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _is_users(filename: str) -> bool:
    return not filename.startswith((_TORCH, _OURS, "<"))
