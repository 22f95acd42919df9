"""k-means over the weights of each layer: few distinct values, so that the tensors code into few bits.

In one dimension k-means needs no luck: clusters are intervals, so dynamic programming over sorted values finds the
optimum (Wang, Song 2011, "Ckmeans.1d.dp"), here with the divide-and-conquer speed-up for monotone split points.
Tensors with more values than bins are binned first. Lloyd's steps on all values polish the result, and bins are
laid anew inside the clusters found, as long as that helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuroprune.base.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_POLISHING_STEPS = 100
_CELLS_PER_CLUSTER = 8
_REFINEMENTS, _WORTH_IT = 8, 0.999


@dataclass(frozen=True)
class TensorClusters:
    """One tensor: number of entries, distinct values before and after, mean squared change."""

    name: str
    entries: int
    before: int
    after: int
    mse: float


@dataclass(frozen=True)
class ClusterReport:
    k: int
    tensors: tuple[TensorClusters, ...]

    @property
    def before(self) -> int:
        """Distinct values over all clustered tensors (each has its own code book)."""
        return sum(t.before for t in self.tensors)

    @property
    def after(self) -> int:
        return sum(t.after for t in self.tensors)

    def to_json(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "before": self.before,
            "after": self.after,
            "tensors": [asdict(t) for t in self.tensors],
        }


def cluster_weights(model: nn.Module, *, k: int) -> ClusterReport:
    """Replace every weight of each convolution and linear layer by one of its tensor's ``k`` centroids, in place.

    Exact zeros stay zeros (they take one of the centroids). Tensors with at most ``k`` distinct values and
    biases are left alone; tied weights are clustered once. Deterministic. Raises UserError when ``k`` is below 2
    or a weight is not finite; the model is then as it was.
    """
    if k < 2:
        raise UserError("clustering needs at least two values per tensor", value=k, mend="give k >= 2, e.g. 16")
    todo = list(_weights(model))
    for name, weight in todo:
        if not torch.isfinite(weight).all():
            raise UserError("the weights hold NaN or infinity", where=name, mend="train again, or reload")
    return ClusterReport(k, tuple(_cluster_tensor(name, weight, k) for name, weight in todo))


def kmeans_1d(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> Floats:
    """At most ``k`` ascending centroids for ``values`` (any shape; ``weights`` counts each of them).

    The least possible sum of squares where ``values`` has at most ``max(512, 8 k)`` distinct entries, else close
    to it. With at most ``k`` distinct values these come back unchanged.
    """
    points, inverse = np.unique(np.asarray(values, np.float64).ravel(), return_inverse=True)
    mass = np.bincount(inverse, None if weights is None else np.ravel(weights)).astype(np.float64)
    if len(points) <= k:
        return points
    bins = max(512, _CELLS_PER_CLUSTER * k)
    if len(points) <= bins:
        return _polished(points, mass, _optimal_edges(points, mass, k))
    best, least = points[:0], np.inf
    grid = _first_grid(points, mass, bins)
    for _ in range(_REFINEMENTS):
        edges = _optimal_edges(*_binned(points, mass, grid), k)
        found = _polished(points, mass, edges)
        error = _inertia(points, mass, found)
        if not error < least * _WORTH_IT:
            break
        best, least = found, error
        grid = _finer_grid(points, found)
    return best


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, _LAYERS) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            yield f"{name}.weight" if name else "weight", module.weight


def _cluster_tensor(name: str, weight: torch.Tensor, k: int) -> TensorClusters:
    old = weight.detach().cpu().to(torch.float64).numpy()
    before = len(np.unique(old))
    if before <= k:
        return TensorClusters(name, old.size, before, before, 0.0)
    zero = old == 0
    centroids = kmeans_1d(old[~zero], k - 1 if zero.any() else k)
    new = np.where(zero, 0.0, centroids[_nearest(old, centroids)])
    with torch.no_grad():
        weight.copy_(torch.from_numpy(new))
    stored = weight.detach().cpu().to(torch.float64).numpy()
    return TensorClusters(name, old.size, before, len(np.unique(stored)), float(((stored - old) ** 2).mean()))


def _nearest(values: Floats, centroids: Floats) -> Ints:
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)


def _first_grid(points: Floats, mass: Floats, bins: int) -> Floats:
    """Half of the boundaries even in value (they resolve the tails), half even in mass (the crowd)."""
    shares = np.linspace(0, 1, bins // 2 + 1)[1:-1]
    by_value = points[0] + shares * (points[-1] - points[0])
    by_mass = points[np.searchsorted(mass.cumsum(), shares * mass.sum())]
    return np.sort(np.concatenate([by_value, by_mass]))


def _finer_grid(points: Floats, centroids: Floats) -> Floats:
    """Every cluster in even cells: fine where clusters are narrow, whatever the tails look like."""
    bounds = np.concatenate([points[:1], (centroids[1:] + centroids[:-1]) / 2, points[-1:]])
    steps = np.arange(_CELLS_PER_CLUSTER) / _CELLS_PER_CLUSTER
    grid: Floats = (bounds[:-1, None] + np.diff(bounds)[:, None] * steps).ravel()
    return grid


def _binned(points: Floats, mass: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Points inside one cell of ``grid`` merged to their mean and mass."""
    cell = np.searchsorted(grid, points, side="right")
    total = np.bincount(cell, mass)
    full = total > 0
    means: Floats = np.bincount(cell, mass * points)[full] / total[full]
    return means, total[full].astype(np.float64)


def _inertia(points: Floats, mass: Floats, centroids: Floats) -> float:
    return float((mass * (points - centroids[_nearest(points, centroids)]) ** 2).sum())


def _sums(points: Floats, mass: Floats) -> tuple[Floats, Floats, Floats]:
    """Prefix sums (n + 1 entries) of mass, mass x and mass x^2, about the mean for precision."""
    x = points - np.average(points, weights=mass)
    stacked = np.stack([mass, mass * x, mass * x * x])
    sums = np.concatenate([np.zeros((3, 1)), stacked.cumsum(1)], axis=1)
    return sums[0], sums[1], sums[2]


def _optimal_edges(points: Floats, mass: Floats, k: int) -> Floats:
    """The k - 1 boundaries (halfway between neighbours) of the optimal intervals."""
    n = len(points)
    k = min(k, n)
    w, s, q = _sums(points, mass)

    def cost(start: Ints, end: Ints) -> Floats:  # sum of squares of points[start:end] about their mean
        return (q[end] - q[start]) - (s[end] - s[start]) ** 2 / np.maximum(w[end] - w[start], 1e-300)

    ends = np.arange(n + 1)
    best = cost(np.zeros(n + 1, np.int64), ends)  # best[j]: points[:j] in one cluster
    splits = np.zeros((k, n + 1), np.int64)
    for clusters in range(1, k):
        best, splits[clusters] = _one_more_cluster(best, cost, clusters, n)
    cuts, end = [], n
    for clusters in range(k - 1, 0, -1):
        end = int(splits[clusters, end])
        cuts.append(end)
    at = np.array(cuts[::-1], np.int64)
    return (points[at] + points[at - 1]) / 2


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


def _polished(points: Floats, mass: Floats, edges: Floats) -> Floats:
    """Lloyd's steps on all points: exact, since prefix sums give every interval's mean."""
    w, s, _ = _sums(points, mass)
    center = np.average(points, weights=mass)
    centroids = edges
    for _ in range(_POLISHING_STEPS):
        cuts = np.concatenate([[0], np.searchsorted(points, edges), [len(points)]])
        cuts = np.unique(cuts)  # an interval without points gives no centroid
        centroids = np.diff(s[cuts]) / np.diff(w[cuts]) + center
        moved = (centroids[1:] + centroids[:-1]) / 2
        if len(moved) == len(edges) and np.array_equal(moved, edges):
            break
        edges = moved
    return centroids
