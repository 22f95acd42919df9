"""What every operator rule is written with.

A rule receives an :class:`OpCall` and returns, per output tensor, the labels of its dimensions. Every labelled
dimension of every input must be **taken** (it lives on in an output, or is summed over and *consumed*); what a
rule forgets is pinned and reported, so a sloppy rule loses compression, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.labels import NO_LABELS, Labels, Spread, Vector, compress, spread
from neuroprune.graph.records import Reason, Records


@dataclass
class OpCall:
    """One executed operator: its arguments by schema name, its output(s), the labels of its inputs."""

    name: str
    func: OpOverload | None
    args: dict[str, Any]
    outputs: list[Tensor]
    labels_of: Callable[[Tensor], Labels]
    records: Records
    reason: Callable[[str], Reason]
    settled: set[tuple[int, int]] = field(default_factory=set)
    complaint: str = "the rule for this operator does not carry this dimension on"
    #: the operator takes a statistic over a labelled dimension (a mean, a norm): the oracle must know
    statistical: bool = False
    #: vectors that the sizes among the operator's arguments count (the groups of a convolution)
    counted: dict[str, Vector] = field(default_factory=dict)

    def tensor(self, which: str | Tensor) -> Tensor | None:
        value = self.args.get(which) if isinstance(which, str) else which
        return value if isinstance(value, Tensor) else None

    def peek(self, which: str | Tensor, dim: int) -> Vector | None:
        """The labels of one dimension, without saying what becomes of them."""
        value = self.tensor(which)
        return None if value is None or not value.dim() else self.labels_of(value).get(dim % value.dim())

    def take(self, which: str | Tensor, dim: int) -> Vector | None:
        """The labels of one dimension; the rule promises to carry or consume them."""
        value, vector = self.tensor(which), self.peek(which, dim)
        if value is not None and vector is not None:
            self.settled.add((id(value), dim % value.dim()))
        return vector

    def take_all(self, which: str | Tensor, *, but: Sequence[int] = ()) -> Labels:
        """Labels of all dimensions except those in ``but``."""
        value = self.tensor(which)
        if value is None:
            return NO_LABELS
        dims = [dim for dim in self.labels_of(value) if dim not in but]
        self.settled.update((id(value), dim) for dim in dims)
        return {dim: self.labels_of(value)[dim] for dim in dims}

    def consume(self, *vectors: Vector | None) -> None:
        for vector in vectors:
            if vector is not None:
                self.records.consume(vector)

    def tie(self, a: Vector, b: Vector, text: str = "meets a dimension that cannot shrink") -> None:
        self.records.tie(a, b, lambda: self.reason(text))

    def pin(self, labels: Vector | None, text: str, *, quiet: bool = False) -> None:
        if labels is not None:
            self.records.pin(labels, replace(self.reason(text), quiet=quiet))

    def statistic(self, vector: Vector | None) -> None:
        """Values of kept channels depend on how many there are. Not for sums: what is masked adds nothing."""
        if vector is not None:
            self.records.statistics.append(vector)
            self.statistical = True

    def meet(self, operands: Sequence[tuple[Labels, Sequence[int]]], ndim: int) -> Labels:
        """Elementwise combination with broadcasting of operands (labels, shape) into ``ndim`` dimensions.

        Labels that meet are tied; an operand that has size in a dimension but no labels there pins it.
        """
        out: dict[int, Vector] = {}
        for dim in range(ndim):
            met = [
                labels.get(dim - ndim + len(shape))
                for labels, shape in operands
                if dim - ndim + len(shape) >= 0 and shape[dim - ndim + len(shape)] > 1
            ]
            present = [vector for vector in met if vector is not None]
            if not present:
                continue
            if len(present) < len(met):
                for vector in present:
                    self.pin(vector, "meets a tensor whose size there cannot shrink")
                continue  # what is pinned need not be carried on
            for other in present[1:]:
                self.tie(present[0], other)
            out[dim] = present[0]
        return out

    def extent(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape, with size 1 where the tensor is one value repeated: it can be repeated less often."""
        labels = self.labels_of(tensor)
        return tuple(
            1 if step == 0 and dim not in labels else size
            for dim, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        )

    def moved(
        self, which: str | Tensor, run: Callable[[Tensor], Sequence[Tensor]], labels: Labels | None = None
    ) -> list[Labels]:
        """Labels of each output when ``run`` (the operator on one tensor) moves data but computes nothing."""
        value = self.tensor(which)
        assert value is not None
        spreads: list[list[Spread]] = [[] for _ in self.outputs]
        for dim, vector in (self.take_all(value) if labels is None else labels).items():
            for found, full in zip(spreads, run(spread(vector, dim, value.shape)), strict=True):
                moved = compress(full)
                if moved is not None:
                    found.append(moved)
        return [self.place(found) for found in spreads]

    def place(self, spreads: Sequence[Spread]) -> Labels:
        """One vector per dimension out of labels that may vary along several, or meet in one.

        Labels that vary along several dimensions (channels viewed as heads x width) give each dimension labels
        of its own: an element goes when its row or its column goes. Labels that meet in one dimension give new
        ones, which go when any of them goes. Both are recorded as products.
        """
        out: dict[int, Vector] = {}
        for cluster in _clusters(spreads):
            dims = sorted({dim for s in cluster for dim in s.dims})
            if not dims:
                self.pin(cluster[0].labels, "one index is taken out, so it cannot be removed")
                continue
            joint = self._join([s.labels for s in cluster])
            if len(dims) == 1:
                out[dims[0]] = joint.flatten()
            else:
                out |= self._split(joint, dims)
        return out

    def _join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Labels that go when any of the parts' labels at the same place goes."""
        if len(parts) == 1:
            return parts[0]
        arrays = np.broadcast_arrays(*parts)
        key = np.zeros(arrays[0].shape, dtype=np.int64)
        for array in arrays:
            inverse = np.unique(key, return_inverse=True)[1].reshape(key.shape)
            key = inverse * np.int64(self.records.next_label) + array
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        whole = self.records.fresh(first.size)
        self.records.product(whole, *(array.ravel()[first] for array in arrays))
        joined: np.ndarray = whole[inverse].reshape(key.shape)
        return joined

    def _split(self, joint: np.ndarray, dims: Sequence[int]) -> dict[int, Vector]:
        """One fresh vector per dimension, whose product ``joint`` is."""
        vectors = {}
        for axis, dim in enumerate(dims):
            rows = np.moveaxis(joint.reshape([joint.shape[d] for d in dims]), axis, 0).reshape(
                joint.shape[dim], -1
            )
            if joint.shape[dim] > 1 and len(np.unique(rows[:, :1])) == len(rows):
                vectors[dim] = self.records.fresh(len(rows))  # the common case, without the detour
                continue
            # places that bear the same labels throughout (a batch, repeated) share one: it costs no units
            alike = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
            vectors[dim] = self.records.fresh(int(alike.max()) + 1)[alike]
        grid = np.meshgrid(*(vectors[dim] for dim in dims), indexing="ij")
        self.records.product(joint.ravel(), *(axis.ravel() for axis in grid))
        return vectors


def _clusters(spreads: Sequence[Spread]) -> list[list[Spread]]:
    """Spreads that share a dimension, together."""
    clusters: list[list[Spread]] = []
    for s in spreads:
        touching = [c for c in clusters if any(set(s.dims) & set(o.dims) for o in c)]
        clusters = [c for c in clusters if c not in touching]
        clusters.append([o for c in touching for o in c] + [s])
    return clusters


Rule = Callable[[OpCall], list[Labels]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: this function is the rule of the operators called ``names`` (ATen's, without overload).

    It is the rule of their in-place versions too (``copy``: also ``copy_``).
    """

    def add(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"operator {name!r} has two rules")
            RULES[name] = function
        return function

    return add
