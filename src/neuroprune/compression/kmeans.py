"""k-means of numbers: the few values that stand for many with the least sum of squares.

In one dimension k-means needs no luck: clusters are intervals, so dynamic programming over sorted values finds the
optimum (Wang, Song 2011, "Ckmeans.1d.dp"), here with the divide-and-conquer speed-up for monotone split points.
Too many values for that are put into cells first, and Lloyd's steps on all values polish the result. Values are
sorted once, and running sums give the mean of any interval, so that nothing after that looks at every value again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_POLISHING_STEPS = 100
_LEAST_BINS, _BINS_PER_CLUSTER = 512, 8
_BLOCK = 256
#: of values at a time: what fits into a core's cache
_CHUNK = 1 << 17
#: of the table in `nearest`: as many as a 16-bit number can tell apart
_CELLS = 1 << 16
_UNSURE = 256
#: fewer values are looked up one by one
_WORTH_A_TABLE = 1 << 15


def kmeans_1d(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> Floats:
    """At most ``k`` ascending centroids for finite ``values`` (any shape; ``weights``, 0 or more, counts each).

    The least possible sum of squares where ``values`` has at most ``max(512, 8 k)`` distinct entries, else close
    to it. With at most ``k`` distinct values these come back unchanged.
    """
    return SortedValues(values, weights).centroids(k)


def nearest(values: np.ndarray, centroids: Floats) -> NDArray[Any]:
    """Of each value the number of the nearest of the ascending ``centroids`` (halfway: the lower one).

    Same shape as ``values``; uint8 for at most 256 centroids, else int64.
    """
    values = _float(values)
    bounds = _not_above((centroids[1:] + centroids[:-1]) / 2, values.dtype)
    few = len(centroids) <= 256
    codes = np.zeros(values.size, np.uint8 if few else np.int64)
    if not len(bounds):
        return codes.reshape(values.shape)
    table = _Table.of(bounds) if few and values.size > _WORTH_A_TABLE else None
    flat = values.reshape(-1)
    for start in range(0, values.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        codes[start : start + _CHUNK] = np.searchsorted(bounds, part) if table is None else table.look_up(part)
    return codes.reshape(values.shape)


class _Running:
    """Sums of an array up to any of its places, kept for every block's beginning only."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        whole = array.size // _BLOCK
        sums = array[: whole * _BLOCK].reshape(whole, _BLOCK).sum(1, dtype=np.float64)
        self.at_blocks = np.concatenate([[0.0], sums.cumsum()])

    def between(self, places: Ints) -> Floats:
        """From each of the ascending ``places`` to the next."""
        block = places // _BLOCK
        inside = block[:, None] * _BLOCK + np.arange(_BLOCK)  # [places, _BLOCK]
        rest = np.where(inside < places[:, None], self.array[np.minimum(inside, self.array.size - 1)], 0)
        found: Floats = np.diff(self.at_blocks[block] + rest.sum(1, dtype=np.float64))
        return found


class SortedValues:
    """``values`` ascending [n], float32 or float64, sorted once for any number of clusters."""

    def __init__(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        flat = _float(values).reshape(-1)
        if weights is None:
            self.values = np.sort(flat)
            self._mass, self._moment = None, _Running(self.values)
        else:
            each = np.asarray(weights, np.float64).reshape(-1)
            if (each > 0).any():  # what counts nothing has no say
                flat, each = flat[each > 0], each[each > 0]
            order = np.argsort(flat, kind="stable")
            self.values, each = flat[order], each[order]
            self._mass, self._moment = _Running(each), _Running(each * self.values)

    @cached_property
    def distinct(self) -> int:
        return int(np.count_nonzero(self.values[1:] != self.values[:-1])) + min(1, self.values.size)

    def centroids(self, k: int) -> Floats:
        """As `kmeans_1d`."""
        bins = max(_LEAST_BINS, _BINS_PER_CLUSTER * k)
        cuts = self._runs() if self.distinct <= bins else self._cells(bins)
        weight = self._weight(cuts)
        if self.distinct <= bins:
            points = self.values[cuts[:-1]].astype(np.float64)
        else:
            points = self._moment.between(cuts) / weight
        return points if self.distinct <= k else self._polished(_optimal_edges(points, weight, k))

    def _runs(self) -> Ints:
        """Where each run of equal values begins, and the end."""
        changes = np.flatnonzero(self.values[1:] != self.values[:-1]) + 1
        begin = [0] if self.values.size else []
        return np.concatenate([begin, changes, [self.values.size]]).astype(np.int64)

    def _cells(self, number: int) -> Ints:
        """Where at least ``number`` cells begin, and the end. Cells are halved where most of the squares are: the
        best clusters have about equal shares of them (Panter, Dite 1951, "Quantization distortion")."""
        cuts = np.array([0, self.values.size])
        while len(cuts) <= number:
            low, high = (self.values[places].astype(np.float64) for places in (cuts[:-1], cuts[1:] - 1))
            squares = np.diff(cuts) * (high - low) ** 2
            split = squares >= squares.max() / 4  # a half has at most a quarter
            finer = np.union1d(cuts, self._places((low + (high - low) / 2)[split]))
            if len(finer) == len(cuts):  # no number lies between
                break
            cuts = finer
        return cuts

    def _weight(self, cuts: Ints) -> Floats:
        return np.diff(cuts).astype(np.float64) if self._mass is None else self._mass.between(cuts)

    def _places(self, edges: Floats) -> Ints:
        """How many values are not above each edge."""
        places: Ints = np.searchsorted(self.values, _not_above(edges, self.values.dtype), side="right")
        return places

    def _polished(self, edges: Floats) -> Floats:
        """Lloyd's steps on all values: exact, since running sums give every interval's mean."""
        centroids = edges
        for _ in range(_POLISHING_STEPS):
            # an interval without values gives no centroid
            cuts = np.unique(np.concatenate([[0], self._places(edges), [self.values.size]]))
            centroids = self._moment.between(cuts) / self._weight(cuts)
            moved = (centroids[1:] + centroids[:-1]) / 2
            if len(moved) == len(edges) and np.array_equal(moved, edges):
                break
            edges = moved
        return centroids


@dataclass(frozen=True)
class _Table:
    """For at most 255 ``bounds``: even cells over their range. ``entries`` [cells]: how many bounds lie in the
    cells before each, and `_UNSURE` more where some lie within."""

    bounds: NDArray[Any]
    scale: Any
    entries: NDArray[np.uint16]

    @classmethod
    def of(cls, bounds: NDArray[Any]) -> _Table | None:
        """None where cells have no width."""
        with np.errstate(over="ignore", divide="ignore"):
            scale = bounds.dtype.type(_CELLS - 1) / (bounds[-1] - bounds[0])
        if not np.isfinite(scale) or not scale > 0:
            return None
        within = np.bincount(cls._cells(bounds, bounds, scale), minlength=_CELLS)
        entries = within.cumsum() - within + _UNSURE * (within > 0)
        return cls(bounds, scale, entries.astype(np.uint16))

    @staticmethod
    def _cells(values: NDArray[Any], bounds: NDArray[Any], scale: Any) -> NDArray[np.uint16]:
        """Never falls as a value grows, however it is rounded: a bound in an earlier cell is a smaller one."""
        cells: NDArray[np.uint16] = ((np.clip(values, bounds[0], bounds[-1]) - bounds[0]) * scale).astype(
            np.uint16
        )
        return cells

    def look_up(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        entries = self.entries[self._cells(values, self.bounds, self.scale)]
        codes = entries.astype(np.uint8)
        unsure = np.flatnonzero(entries >= _UNSURE)
        codes[unsure] = np.searchsorted(self.bounds, values[unsure])
        return codes


def _float(values: np.ndarray) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype == np.float32 else array.astype(np.float64, copy=False)


def _not_above(edges: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The largest numbers of ``dtype`` that are not above ``edges``: what is above one is above the other."""
    rounded = edges.astype(dtype)
    return np.where(rounded > edges, np.nextafter(rounded, dtype.type(-np.inf)), rounded)


def _optimal_edges(points: Floats, mass: Floats, k: int) -> Floats:
    """The k - 1 boundaries (halfway between neighbours) of the optimal intervals."""
    n = len(points)
    k = min(k, n)
    w, s, q = _sums(points, mass)

    def cost(start: Ints, end: Ints) -> Floats:  # sum of squares of points[start:end] about their mean
        return (q[end] - q[start]) - (s[end] - s[start]) ** 2 / np.maximum(w[end] - w[start], 1e-300)

    best = cost(np.zeros(n + 1, np.int64), np.arange(n + 1))  # best[j]: points[:j] in one cluster
    splits = np.zeros((k, n + 1), np.int64)
    for clusters in range(1, k):
        best, splits[clusters] = _one_more_cluster(best, cost, clusters, n)
    cuts, end = [], n
    for clusters in range(k - 1, 0, -1):
        end = int(splits[clusters, end])
        cuts.append(end)
    at = np.array(cuts[::-1], np.int64)
    return (points[at] + points[at - 1]) / 2


def _sums(points: Floats, mass: Floats) -> tuple[Floats, Floats, Floats]:
    """Prefix sums (n + 1 entries) of mass, mass x and mass x^2, about the mean for precision."""
    x = points - np.average(points, weights=mass)
    stacked = np.stack([mass, mass * x, mass * x * x])
    sums = np.concatenate([np.zeros((3, 1)), stacked.cumsum(1)], axis=1)
    return sums[0], sums[1], sums[2]


def _one_more_cluster(best: Floats, cost: Any, clusters: int, n: int) -> tuple[Floats, Ints]:
    """From the optimum with ``clusters`` clusters to that with one more, for every prefix length j.

    new[j] = min over i of best[i] + cost(i, j). The best i never falls as j grows, so the middle j of a range
    bounds the search of both halves; all ranges of one depth are searched at once.
    """
    new = np.full(n + 1, np.inf)
    split = np.full(n + 1, clusters, np.int64)
    low, high = np.array([clusters + 1]), np.array([n])  # ranges of j that are still open (inclusive)
    first, last = np.array([clusters]), np.array([n - 1])  # ranges of i to search
    while len(low):
        middle = (low + high) // 2
        stop = np.minimum(last, middle - 1)
        sizes = stop - first + 1
        starts = np.concatenate([[0], sizes.cumsum()[:-1]])
        owner = np.repeat(np.arange(len(sizes)), sizes)
        i = np.arange(sizes.sum()) - starts[owner] + first[owner]
        total = best[i] + cost(i, middle[owner])
        new[middle] = np.minimum.reduceat(total, starts)
        hit = np.flatnonzero(total == new[middle][owner])
        _, leftmost = np.unique(owner[hit], return_index=True)
        chosen = i[hit[leftmost]]
        split[middle] = chosen
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        first, last = np.concatenate([first, chosen]), np.concatenate([chosen, last])
        open_ = low <= high
        low, high, first, last = low[open_], high[open_], first[open_], last[open_]
    return new, split
