"""Weights of like size together: each row, column and kernel position has a class; their sum is a weight's group.

Rows (output channels), input channels and kernel positions differ in how large, and how often zero, their weights
are. An axis' classes are the rounded logarithms of its mean magnitudes; for a table in which every combination
occurs, adding them up is the maximum-likelihood fit of a product of row and column effects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.uint8]

#: classes per axis at most, so that there are few groups and each learns fast
MOST = 16
#: rows and columns that a tensor with classes has at least: fewer do not pay for them, and arrays of rows and
#: columns are so small beside the tensor, whatever a file says
_FEWEST = 8


def may_have_classes(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] >= _FEWEST and math.prod(shape[1:]) >= _FEWEST


@dataclass(frozen=True)
class Grouping:
    """The tensor as a matrix [length of axis 0, product of the others]: the class of each row and each column."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, shape: tuple[int, ...], axes: dict[int, Classes]) -> Grouping:
        """``axes``: the classes along some of the axes; along the others all are of class 0."""
        rows = axes[0].astype(np.int64) if 0 in axes else np.zeros(shape[0], np.int64)
        columns = np.zeros(shape[1:], np.int64)
        for axis, classes in axes.items():
            if axis:
                columns += classes.reshape(-1, *[1] * (len(shape) - 1 - axis))
        return cls(rows, columns.ravel())

    def sizes(self) -> NDArray[np.int64]:
        """How many weights each group has; the group of a weight is the sum of its row's and column's class."""
        return np.convolve(np.bincount(self.rows, minlength=1), np.bincount(self.columns, minlength=1))

    def split(self, matrix: NDArray[Any]) -> list[NDArray[Any]]:
        """The weights of each group, row by row where rows and columns are sorted by class."""
        ordered = _ordered(matrix, np.argsort(self.rows, kind="stable"), np.argsort(self.columns, kind="stable"))
        groups: list[list[NDArray[Any]]] = [[] for _ in self.sizes()]
        for group, rows, columns in self._blocks():
            groups[group].append(ordered[rows, columns].ravel())
        return [np.concatenate(parts) if parts else np.empty(0, matrix.dtype) for parts in groups]

    def join(self, groups: Iterator[NDArray[Any]]) -> NDArray[Any]:
        """The matrix again; takes one group after another."""
        current, symbols, start = 0, next(groups), 0
        ordered = np.empty((len(self.rows), len(self.columns)), symbols.dtype)
        for group, rows, columns in self._blocks():
            if current < group:  # every group has a block, be it an empty one
                current, symbols, start = group, next(groups), 0
            height, width = rows.stop - rows.start, columns.stop - columns.start
            ordered[rows, columns] = symbols[start : start + height * width].reshape(height, width)
            start += height * width
        return _ordered(ordered, _inverse(self.rows), _inverse(self.columns))

    def _blocks(self) -> Iterator[tuple[int, slice, slice]]:
        """Blocks of one row class and one column class in the sorted matrix: by group, then by row class."""
        rows, columns = _runs(self.rows), _runs(self.columns)
        for group in range(len(rows) + len(columns) - 1):
            for row in range(max(0, group - len(columns) + 1), min(len(rows), group + 1)):
                yield group, rows[row], columns[group - row]


def _runs(classes: NDArray[np.int64]) -> list[slice]:
    ends = np.cumsum(np.bincount(classes, minlength=1))
    return [slice(int(end - size), int(end)) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _inverse(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(classes, kind="stable")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _ordered(matrix: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Rows and columns in these orders; orders that change nothing cost nothing."""
    if (np.diff(rows) < 0).any():
        matrix = matrix[rows]
    if (np.diff(columns) < 0).any():
        matrix = np.take(matrix, columns, axis=1)
    return matrix


def classes_along(magnitudes: NDArray[Any], axis: int, per_octave: int) -> Classes:
    """Classes of one axis: ``per_octave`` of them for each doubling of the mean magnitude, the largest first.

    A group learns from those before it, and what fits large weights does less harm to small ones than the reverse.
    """
    others = tuple(other for other in range(magnitudes.ndim) if other != axis)
    means = magnitudes.mean(axis=others, dtype=np.float64)
    overall = means.mean()
    steps = np.rint(per_octave * np.log2((means + overall / 64) / overall)) if overall else np.zeros(len(means))
    steps = np.clip(steps, np.median(steps) - MOST // 2, np.median(steps) + MOST // 2 - 1)
    found: Classes = (steps.max() - steps).astype(np.uint8)
    return found
