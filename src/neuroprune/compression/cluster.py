"""Few distinct values instead of many: every weight of a layer becomes one of the values of a code book.

k-means finds the values (`kmeans`); exact zeros, the pruned weights, keep a value of their own and stay what they
are. Few values code into few bits (Han, Mao, Dally 2016, "Deep compression", section 3).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.kmeans import SortedValues, kmeans_1d, nearest
from neuroprune.compression.layer_weights import LayerWeight, layer_weights

__all__ = ["Book", "ClusterReport", "LayerClusters", "TensorClusters", "cluster_weights", "distinct", "kmeans_1d"]

#: which tensors share a code book
Scope = Literal["tensor", "layer", "network"]

#: an index fits into a byte
LEAST, MOST = 2, 256
_DOUBLED = [2**bits for bits in range(1, 9)]
_CHUNK = 1 << 20

Values = NDArray[Any]


@dataclass(frozen=True)
class TensorClusters:
    """One tensor: number of entries, distinct values before and after, mean squared change."""

    name: str
    entries: int
    before: int
    after: int
    mse: float


@dataclass(frozen=True)
class LayerClusters:
    """All weight ``tensors`` of one module; a value that two of them hold counts once. ``error``: see `Book`."""

    name: str
    tensors: tuple[str, ...]
    entries: int
    before: int
    after: int
    error: float


@dataclass(frozen=True)
class Book:
    """``tensors`` that share ``values`` values; ``error``: their squared change summed over their squares summed.

    ``alone``: they had no more values than they may have, so nothing was done.
    """

    tensors: tuple[str, ...]
    values: int
    error: float
    alone: bool


@dataclass(frozen=True)
class ClusterReport:
    """``before`` and ``after``: distinct values of all these tensors together, where a value that several hold
    counts once; ``summed_before`` and ``summed_after`` count it once per tensor. ``k``: None where a distortion
    was asked for."""

    k: int | None
    distortion: float | None
    scope: Scope
    before: int
    after: int
    error: float
    books: tuple[Book, ...]
    layers: tuple[LayerClusters, ...]
    tensors: tuple[TensorClusters, ...]

    @property
    def entries(self) -> int:
        return sum(t.entries for t in self.tensors)

    @property
    def summed_before(self) -> int:
        return sum(t.before for t in self.tensors)

    @property
    def summed_after(self) -> int:
        return sum(t.after for t in self.tensors)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cluster_weights(
    model: nn.Module,
    *,
    k: int | None = None,
    distortion: float | None = None,
    scope: Scope = "tensor",
    only: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> ClusterReport:
    """Replace every weight of the model's layers by one of its code book's values, in place.

    >>> report = cluster_weights(model, k=16)                                            # doctest: +SKIP
    >>> report = cluster_weights(model, distortion=0.001, scope="layer", keep=["fc"])    # doctest: +SKIP

    Each book has at most ``k`` values (2 to 256), zero among them where a tensor has exact zeros: they stay zeros,
    and every other weight takes one of the other values. Or ``distortion``: each book has the least number of
    values that keeps the sum of squared changes over its tensors at ``distortion`` times the sum of their squares.
    ``scope``: a book for each ``tensor``, for all tensors of a ``layer`` (a module: LSTM, multi-head attention),
    or for the ``network``; tensors of different floating types never share one.

    The weights of linear, convolutional, recurrent, attention and embedding layers are meant, not biases and
    norms; ``only`` and ``keep`` are patterns of tensors or modules that narrow them down. Tied weights are one
    tensor, which counts with the layer that comes first. A book whose tensors have no more values than it may
    have is left alone, bit for bit. Deterministic.

    Raises UserError for arguments out of range, patterns that match nothing, weights that are not finite, and a
    distortion that 256 values do not keep; the model is then as it was.
    """
    _check(k, distortion, scope)
    books = _books(layer_weights(model, only, keep), scope)
    found = [_clustered(book, k, distortion) for book in books]
    report = _report(k, distortion, scope, books, found)
    with torch.no_grad():
        for book, result in zip(books, found, strict=True):
            for weight, new in zip(book, () if result.alone else result.new, strict=not result.alone):
                weight.tensor.copy_(torch.from_numpy(new))
    return report


def distinct(tensors: Iterable[Tensor]) -> int:
    """Distinct values of all ``tensors`` together: what several hold counts once, and so do 0.0 and -0.0."""
    return _union([_unique(_numpy(tensor)) for tensor in tensors]).size


@dataclass(frozen=True)
class _Result:
    """Of one book: the tensors' values before and after."""

    old: list[Values]
    new: list[Values]
    alone: bool

    @property
    def error(self) -> float:
        pairs = zip(self.old, self.new, strict=True)
        power = sum(_squares(old) for old in self.old)
        return sum(_squares(old, new) for old, new in pairs) / power if power else 0.0


def _check(k: int | None, distortion: float | None, scope: str) -> None:
    if scope not in get_args(Scope):
        raise UserError(
            "a code book is for a tensor, a layer or the network", value=scope, mend='give scope="tensor"'
        )
    if (k is None) == (distortion is None):
        raise UserError(
            "give either the number of values or the distortion that they may cause",
            value=f"k {k}, distortion {distortion}",
            mend="give k=16, or distortion=0.001",
        )
    if k is not None and not LEAST <= k <= MOST:
        few = "at least two" if k < LEAST else f"at most {MOST}"
        raise UserError(f"a code book has {few} values", value=k, mend=f"give k in {LEAST}..{MOST}, e.g. 16")
    if distortion is not None and not 0 < distortion < 1:
        raise UserError(
            "the distortion is a share of the weights' squares, above 0 and below 1",
            value=distortion,
            mend="give distortion=0.001",
        )


def _books(weights: Sequence[LayerWeight], scope: Scope) -> list[list[LayerWeight]]:
    groups: dict[tuple[str, torch.dtype], list[LayerWeight]] = {}
    for weight in weights:
        shared = {"tensor": weight.name, "layer": weight.layer, "network": ""}[scope]
        groups.setdefault((shared, weight.tensor.dtype), []).append(weight)
    return list(groups.values())


def _clustered(book: Sequence[LayerWeight], k: int | None, distortion: float | None) -> _Result:
    old = [_numpy(weight.tensor) for weight in book]
    joint = old[0].reshape(-1) if len(old) == 1 else np.concatenate([array.reshape(-1) for array in old])
    zeros = bool((joint == 0).any())
    line = SortedValues(joint[joint != 0] if zeros else joint)
    del joint

    @lru_cache(maxsize=2)  # each holds as much as the tensors themselves
    def with_values(number: int) -> _Result:
        if line.distinct + zeros <= number:
            return _Result(old, old, alone=True)
        values = _rounded(line.centroids(number - zeros), book[0].tensor.dtype)
        return _Result(old, [_replaced(array, values, zeros) for array in old], alone=False)

    return with_values(k) if k is not None else _within(with_values, float(distortion or 0), book)


def _within(with_values: Callable[[int], _Result], distortion: float, book: Sequence[LayerWeight]) -> _Result:
    """The result with the fewest values that keep the distortion: more values never do worse."""

    def kept(number: int) -> bool:
        return with_values(number).error <= distortion

    enough = next((number for number in _DOUBLED if kept(number)), None)  # few values are found sooner than many
    if enough is None:
        raise UserError(
            f"{MOST} values distort the weights more than that",
            where=", ".join(weight.name for weight in book[:3]) + (", ..." if len(book) > 3 else ""),
            value=f"{with_values(MOST).error:.3g}, where {distortion:g} is allowed",
            mend="allow more distortion, take a smaller scope, or keep these tensors",
        )
    numbers = range(max(LEAST, enough // 2), enough + 1)
    return with_values(numbers[bisect.bisect_left(numbers, True, key=kept)])


def _replaced(array: Values, values: NDArray[np.float64], zeros: bool) -> Values:
    new: Values = values.astype(array.dtype)[nearest(array, values)]
    if zeros:
        new[array == 0] = 0
    return new


def _report(
    k: int | None,
    distortion: float | None,
    scope: Scope,
    books: Sequence[Sequence[LayerWeight]],
    results: Sequence[_Result],
) -> ClusterReport:
    measured = {
        weight.name: _Measured.of(weight, old, new)
        for book, result in zip(books, results, strict=True)
        for weight, old, new in zip(book, result.old, result.new, strict=True)
    }
    layers: dict[str, list[_Measured]] = {}
    for one in measured.values():
        layers.setdefault(one.layer, []).append(one)
    before, after, error = _together(list(measured.values()))
    return ClusterReport(
        k,
        distortion,
        scope,
        before,
        after,
        error,
        tuple(_book([measured[w.name] for w in book], r.alone) for book, r in zip(books, results, strict=True)),
        tuple(_layer(name, members) for name, members in layers.items()),
        tuple(TensorClusters(m.name, m.entries, m.before.size, m.after.size, m.mse) for m in measured.values()),
    )


def _layer(name: str, members: Sequence[_Measured]) -> LayerClusters:
    tensors, entries = tuple(m.name for m in members), sum(m.entries for m in members)
    return LayerClusters(name, tensors, entries, *_together(members))


def _book(members: Sequence[_Measured], alone: bool) -> Book:
    _, values, error = _together(members)
    return Book(tuple(m.name for m in members), values, error, alone)


@dataclass(frozen=True)
class _Measured:
    """One tensor: its distinct values before and after, the sums of its squares and of its squared changes."""

    name: str
    layer: str
    entries: int
    before: Values
    after: Values
    power: float
    change: float

    @classmethod
    def of(cls, weight: LayerWeight, old: Values, new: Values) -> _Measured:
        before = _unique(old)
        after = before if new is old else _unique(new)
        return cls(weight.name, weight.layer, old.size, before, after, _squares(old), _squares(old, new))

    @property
    def mse(self) -> float:
        return self.change / self.entries if self.entries else 0.0


def _together(members: Sequence[_Measured]) -> tuple[int, int, float]:
    """Distinct values before and after, and the relative error."""
    power = sum(m.power for m in members)
    error = sum(m.change for m in members) / power if power else 0.0
    return _union([m.before for m in members]).size, _union([m.after for m in members]).size, error


def _union(arrays: Sequence[Values]) -> Values:
    if len(arrays) == 1:
        return arrays[0]
    return _unique(np.concatenate(arrays)) if arrays else np.empty(0)


def _unique(array: Values) -> Values:
    ordered = np.sort(array, axis=None)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if ordered.size else ordered


def _squares(old: Values, new: Values | None = None) -> float:
    """Sum of squares of ``old``, or of what it is away from ``new``; in float64, a part at a time."""
    total, flat, other = 0.0, old.reshape(-1), None if new is None else new.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        if other is not None:
            part -= other[start : start + _CHUNK]
        total += float(part @ part)
    return total


def _numpy(tensor: Tensor) -> Values:
    """float32, or float64 for a tensor of float64."""
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    array: Values = tensor.detach().cpu().to(wide).numpy()
    return array


def _rounded(values: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """As the tensor can hold them."""
    held: NDArray[np.float64] = torch.from_numpy(values).to(dtype).to(torch.float64).numpy()
    return held
