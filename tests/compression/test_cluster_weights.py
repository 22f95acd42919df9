"""Clustering against brute force, against scikit-learn, and on models."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.cluster import cluster_weights, kmeans_1d
from neuroprune.tasks.nets import tiny_resnet


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


def test_model_keeps_zeros_biases_norms_and_shapes() -> None:
    model = tiny_resnet()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight[torch.rand_like(module.weight) < 0.3] = 0
    before = copy.deepcopy(model.state_dict())
    report = cluster_weights(model, k=8)
    clustered = {t.name for t in report.tensors}
    assert clustered == {n for n, p in model.named_parameters() if p.dim() > 1}
    for name, new in model.state_dict().items():
        old = before[name]
        if name not in clustered:
            assert torch.equal(old, new)
            continue
        assert len(new.unique()) <= 8
        assert torch.equal(new[old == 0], torch.zeros_like(new[old == 0]))
        assert (new - old).abs().max() < (old.max() - old.min()) / 4
    assert report.summed_before == sum(len(before[n].unique()) for n in clustered)
    assert report.summed_after == sum(len(model.state_dict()[n].unique()) for n in clustered)
    assert report.to_json()["after"] == report.after


def test_mse_is_what_changed() -> None:
    layer = nn.Linear(20, 10)
    old = layer.weight.detach().clone()
    (tensor,) = cluster_weights(layer, k=4).tensors
    assert tensor.name == "weight"
    assert tensor.mse == pytest.approx(float(((layer.weight.detach() - old) ** 2).mean()), rel=1e-4)
    assert (tensor.entries, tensor.after) == (200, 4)


def test_few_values_are_left_alone_bit_for_bit() -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.1]).repeat(4, 1))
    old = layer.weight.detach().clone()
    (tensor,) = cluster_weights(layer, k=3).tensors
    assert torch.equal(layer.weight, old)
    assert (tensor.before, tensor.after, tensor.mse) == (3, 3, 0.0)


def test_zeros_that_fill_almost_everything() -> None:
    layer = nn.Linear(10, 10)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :5] = torch.tensor([1.0, 1.1, 5.0, 5.1, -3.0])
    cluster_weights(layer, k=3)
    assert (layer.weight == 0).sum() == 95
    assert len(layer.weight.unique()) <= 3


def test_deterministic_and_idempotent() -> None:
    first, second = tiny_resnet(), tiny_resnet()
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        cluster_weights(model, k=16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    cluster_weights(first, k=16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_stay_clustered(dtype: torch.dtype) -> None:
    layer = nn.Conv1d(6, 8, 3).to(dtype)
    cluster_weights(layer, k=8)
    assert layer.weight.dtype == dtype
    assert len(layer.weight.unique()) <= 8


def test_tied_weights_are_clustered_once_and_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    assert [t.name for t in cluster_weights(model, k=4).tensors] == ["0.weight"]
    assert model[1].weight is model[0].weight


def test_bad_k_and_bad_weights_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with torch.no_grad():
        model[1].weight[2, 3] = float("nan")
    first = model[0].weight.detach().clone()
    with pytest.raises(UserError, match="NaN") as caught:
        cluster_weights(model, k=2)
    assert caught.value.where == "1.weight"
    assert torch.equal(model[0].weight, first)
    with pytest.raises(UserError, match="at least two"):
        cluster_weights(model, k=1)


def test_a_model_without_layers_is_fine() -> None:
    report = cluster_weights(nn.ReLU(), k=2)
    assert (report.before, report.after, report.tensors) == (0, 0, ())
