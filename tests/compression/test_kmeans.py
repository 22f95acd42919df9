"""k-means of numbers against brute force, against scikit-learn and against the exact optimum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from neuroprune.compression.kmeans import SortedValues, kmeans_1d, nearest


def inertia(values: np.ndarray, centroids: np.ndarray, weights: np.ndarray | None = None) -> float:
    gaps = np.abs(values.ravel()[:, None] - centroids[None]).min(1) ** 2
    return float((gaps if weights is None else gaps * weights).sum())


def best_inertia(values: list[float], k: int) -> float:
    """The optimum by trying every way to cut the sorted values into k runs."""
    ordered = np.sort(np.array(values, np.float64))
    best = np.inf
    for cuts in itertools.combinations(range(1, len(ordered)), k - 1):
        pieces = np.split(ordered, cuts)
        best = min(best, sum(float(((p - p.mean()) ** 2).sum()) for p in pieces))
    return best


floats = st.floats(-100, 100, allow_nan=False, width=32)


@settings(max_examples=150, deadline=None)
@given(st.lists(floats, min_size=2, max_size=9), st.integers(2, 5))
def test_optimal_on_small_inputs(values: list[float], k: int) -> None:
    centroids = kmeans_1d(np.array(values), k)
    assert len(centroids) <= k
    assert (np.diff(centroids) > 0).all()
    if len(set(values)) <= k:
        assert sorted(set(values)) == centroids.tolist()
    else:
        found = inertia(np.array(values), centroids)
        assert found <= best_inertia(values, k) * (1 + 1e-6) + 1e-9 * np.square(values).max()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 4)), min_size=3, max_size=8), st.integers(2, 3))
def test_weights_count_like_repetitions(points: list[tuple[int, int]], k: int) -> None:
    values, times = np.array(points, np.float64).T
    repeated = np.repeat(values, times.astype(int))
    found = inertia(values, kmeans_1d(values, k, times), times)
    assert found == pytest.approx(inertia(repeated, kmeans_1d(repeated, k)), abs=1e-9)


@pytest.mark.parametrize("k", [4, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "outlier", "lumps"])
def test_not_worse_than_scikit_learn(kind: str, k: int) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=5000),
        "laplace": rng.laplace(size=5000) * 1e-3,
        "uniform": rng.uniform(5, 6, 5000),
        "outlier": np.append(rng.normal(size=4999), 1e4),  # almost everything falls into one bin
        "lumps": rng.normal(size=5000) * 0.01 + rng.integers(0, 30, 5000),
    }[kind]
    theirs = KMeans(k, n_init=3, random_state=0).fit(values[:, None]).inertia_
    ours = inertia(values, kmeans_1d(values, k))
    assert ours <= theirs * 1.02 + 1e-12


def test_hand_written() -> None:
    assert kmeans_1d(np.array([0, 1, 10, 11, 100.0]), 3).tolist() == [0.5, 10.5, 100]
    assert kmeans_1d(np.array([[3.0, 3.0], [3.0, 3.0]]), 2).tolist() == [3.0]


def exact_inertia(values: np.ndarray, k: int) -> float:
    """The optimum by the plain recurrence, O(k n^2)."""
    x = np.sort(values.astype(np.float64))
    x = x - x.mean()
    s, q, n = np.append(0, x.cumsum()), np.append(0, np.square(x).cumsum()), len(x)
    cost = [
        q[j] - q[: j + 1] - (s[j] - s[: j + 1]) ** 2 / np.maximum(j - np.arange(j + 1), 1) for j in range(n + 1)
    ]
    best = np.array([row[0] for row in cost])
    for _ in range(k - 1):
        best = np.array([(best[: j + 1] + cost[j]).min() for j in range(n + 1)])
    return float(best[n])


@pytest.mark.parametrize("k", [3, 16, 40])
@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "far"])
def test_close_to_the_optimum_where_values_are_put_into_cells(kind: str, k: int) -> None:
    rng = np.random.default_rng(1)
    values = {
        "normal": rng.normal(size=1500),
        "heavy": rng.standard_cauchy(1500),
        "outlier": np.append(rng.normal(size=1499), 3e3),
        "far": 1e4 + rng.normal(size=1500),
    }[kind]
    found, best = inertia(values, kmeans_1d(values, k)), exact_inertia(values, k)
    assert best * (1 - 1e-6) <= found <= best * 1.003


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1.0, 1e-30, 1e30])
def test_nearest_is_a_search_among_the_bounds(dtype: type, spread: float) -> None:
    rng = np.random.default_rng(2)
    centroids = np.sort(rng.standard_t(2, 255)) * spread
    values = (rng.standard_t(2, 70_000) * spread).astype(dtype)  # enough for the table
    values[:254] = ((centroids[1:] + centroids[:-1]) / 2).astype(dtype)  # and on the bounds themselves
    bounds = (centroids[1:] + centroids[:-1]) / 2
    codes = nearest(values, centroids)
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, np.searchsorted(bounds, values.astype(np.float64)))


@pytest.mark.parametrize("centroids", [[0.5], [0.0, 0.0], [0.0, 1e-45], [-3e38, 3e38], [0.0, 1e-40, 1.0]])
def test_nearest_on_ranges_that_no_table_can_have(centroids: list[float]) -> None:
    values = np.linspace(-1, 1, 40_000, dtype=np.float32)
    own = np.array(centroids)
    bounds = (own[1:] + own[:-1]) / 2
    assert np.array_equal(nearest(values, own), np.searchsorted(bounds, values.astype(np.float64)))


def test_nearest_keeps_the_shape_and_counts_beyond_a_byte() -> None:
    codes = nearest(np.array([[0.0, 299.0], [150.2, 7.0]]), np.arange(300.0))
    assert codes.tolist() == [[0, 299], [150, 7]]
    assert nearest(np.empty((0, 3), np.float32), np.arange(3.0)).shape == (0, 3)


def test_sorted_once_for_every_k(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=2000).astype(np.float32)
    line, sort, sizes = SortedValues(values), np.sort, list[int]()

    def counted(array: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
        sizes.append(np.size(array))
        return sort(array, *args, **options)

    monkeypatch.setattr(np, "sort", counted)
    assert line.distinct == len(np.unique(values))
    sizes.clear()
    found = {k: line.centroids(k) for k in (2, 7, 100)}
    assert max(sizes, default=0) < len(values)
    assert all(np.array_equal(centroids, kmeans_1d(values, k)) for k, centroids in found.items())
    errors = [inertia(values, centroids) for centroids in found.values()]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_more_clusters_never_do_worse() -> None:
    values = np.random.default_rng(4).standard_t(3, 3000)
    errors = [inertia(values, kmeans_1d(values, k)) for k in range(1, 30)]
    assert errors == sorted(errors, reverse=True)


def test_what_counts_nothing_has_no_say() -> None:
    values = np.random.default_rng(5).normal(size=4000)
    counts = (np.arange(4000) % 2).astype(np.float64)
    assert np.array_equal(kmeans_1d(values, 9, counts), kmeans_1d(values[1::2], 9, counts[1::2]))
    assert kmeans_1d(values, 9, counts) == pytest.approx(kmeans_1d(values[1::2], 9), rel=1e-9)
    assert kmeans_1d(np.array([1.0, 2.0]), 3, np.zeros(2)).tolist() == [1.0, 2.0]


def test_no_values_and_one_value() -> None:
    assert kmeans_1d(np.empty(0), 3).tolist() == []
    assert kmeans_1d(np.array(4), 3).tolist() == [4.0]
    assert kmeans_1d(np.array([4.0, 6.0]), 1).tolist() == [5.0]
