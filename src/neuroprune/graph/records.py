"""What a trace collects: ties, products, pins, uses and equations, and where in the user's code each happened."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from neuroprune.graph.expressions import ATTRIBUTE, Tree
from neuroprune.graph.labels import FIXED, Vector

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])

#: the name of our functions that call the user's model: no frame outside of them is the model's code
BOUNDARY = "run_users_model"
#: the name of our function that runs one call of an exported graph: its ``step`` knows where that was written
STEP = "run_step"


@dataclass(frozen=True)
class Reason:
    """Why labels may not be cut: operator, module path, ``file:line`` of the user's code, one sentence.

    ``quiet``: nobody expected these to go (the positions of a kernel), so it is no refusal.
    """

    operator: str
    module: str
    where: str
    text: str
    quiet: bool = False


@dataclass(frozen=True, eq=False)
class Equation:
    """``left == right`` must hold after the cut as it does before; leaves are attributes and label counts."""

    left: Tree
    right: Tree
    reason: Reason


#: of an attribute that keeps its value: that holds nothing else, so nobody asks where it was
_HELD = Reason("size", "", "", "is used as a number")


@dataclass
class Records:
    """Everything the rules say about labels during one trace."""

    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    #: (whole, parts): whole[i] goes when any of parts[j][i] goes
    products: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = field(default_factory=list)
    pins: list[tuple[np.ndarray, Reason]] = field(default_factory=list)
    consumed: list[np.ndarray] = field(default_factory=list)
    #: labels over which a statistic is taken: the kept values of the cut network differ from the dense ones
    statistics: list[np.ndarray] = field(default_factory=list)
    #: (labels, kind of unit) for the granularity of groups
    kinds: list[tuple[np.ndarray, str]] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)  # label vectors whose counts equations speak of
    next_label: int = 1  # 0 is FIXED
    _vector_ids: dict[bytes, int] = field(default_factory=dict)
    _equated: set[tuple[Tree, Tree]] = field(default_factory=set)

    def fresh(self, count: int) -> Vector:
        """``count`` labels that nothing bears yet."""
        self.next_label += count
        return np.arange(self.next_label - count, self.next_label)

    def tie(self, a: Vector, b: Vector, reason: Callable[[], Reason]) -> None:
        """Elementwise: these two labels go together. One tied to FIXED is pinned, for that reason."""
        if a is b:
            return
        left, right = (a, b) if a.shape == b.shape else np.broadcast_arrays(a, b)
        different = left != right
        if not different.any():
            return
        left, right = left[different], right[different]
        if not (left.all() and right.all()):
            fixed = (left == FIXED) | (right == FIXED)
            self._pin(np.concatenate([left[fixed], right[fixed]]), reason())
            left, right = left[~fixed], right[~fixed]
        if left.size:
            self.ties.append((left, right))

    def product(self, whole: np.ndarray, *parts: np.ndarray) -> None:
        """Elementwise: ``whole[i]`` goes when one of ``parts[j][i]`` goes."""
        self.products.append((whole, parts))

    def pin(self, labels: Vector, reason: Reason) -> None:
        self._pin(labels.ravel(), reason)

    def _pin(self, labels: np.ndarray, reason: Reason) -> None:
        labels = labels[labels != FIXED]
        if labels.size:
            self.pins.append((labels, reason))

    def consume(self, labels: Vector) -> None:
        """A contraction sums over these labels: removing them removes terms of the sum."""
        self.consumed.append(labels)

    def vector(self, labels: Vector) -> int:
        """The number of a label vector, for the leaf "how many of these are kept"."""
        key = labels.tobytes()
        if key not in self._vector_ids:
            self._vector_ids[key] = len(self.vectors)
            self.vectors.append(labels)
        return self._vector_ids[key]

    def equate(self, left: Tree, right: Tree, reason: Callable[[], Reason]) -> None:
        """What was said before is not said again; the first reason stays."""
        if (left, right) not in self._equated:
            self._equated.add((left, right))
            held = isinstance(left, tuple) and left[0] == ATTRIBUTE and not isinstance(right, tuple)
            self.equations.append(Equation(left, right, _HELD if held else reason()))


def user_line() -> str:
    """``file:line`` of the innermost running frame of the model's code: neither torch's nor ours.

    Empty where the operator was called by PyTorch's own layers alone (an ``nn.Sequential``, say).
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != BOUNDARY:
        if frame.f_code.co_name == STEP and frame.f_code.co_filename.startswith(_OURS):
            return str(frame.f_locals["step"].where)
        if is_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def user_line_of(error: BaseException) -> str:
    """``file:line`` of the last frame of an error's traceback that is the model's own code; empty without one."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = max((i for i, f in enumerate(frames) if f.name == BOUNDARY), default=-1)
    own = [f for f in frames[inside + 1 :] if is_users(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


@functools.cache
def is_users(filename: str) -> bool:
    return not filename.startswith((_TORCH, _OURS, "<"))
