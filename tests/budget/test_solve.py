"""Counts under budgets against every choice there is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.budget.problem import Costs, Layer, Part, layers_of, proportional
from neuroprune.budget.solve import choose_counts
from neuroprune.graph.trace import trace


def curves(sizes: list[int], seed: int, shape: str = "any") -> list[np.ndarray]:
    """Rising errors; convex ones have a best choice at every price."""
    generator = np.random.default_rng(seed)
    found = []
    for size in sizes:
        steps = generator.exponential(size=size) ** 2
        found.append(np.r_[0.0, np.cumsum(np.sort(steps) if shape == "convex" else steps)])
    return found


def separable(sizes: list[int], costs: list[float]) -> Costs:
    layers = tuple(Layer(str(g), (Part(g, 1 / size),), ()) for g, size in enumerate(sizes))
    return Costs(layers, {"macs": [proportional(c) for c in costs]}, {"macs": 3.0})


def chain(sizes: list[int], seed: int, budgets: tuple[str, ...] = ("macs",)) -> Costs:
    """Layer g is between group g - 1 and group g."""
    generator = np.random.default_rng(seed)
    layers = []
    for g in range(len(sizes) + 1):
        rows = (Part(g, 1 / sizes[g]),) if g < len(sizes) else ()
        layers.append(Layer(str(g), rows, (Part(g - 1, 1 / sizes[g - 1]),) if g else ()))
    each = {b: [proportional(float(v)) for v in generator.uniform(1, 5, len(layers))] for b in budgets}
    return Costs(tuple(layers), each, {})


def brute(errors: list[np.ndarray], costs: Costs, budgets: dict[str, float], allowed: list[list[int]]) -> float:
    best = float("inf")
    for choice in itertools.product(*allowed):
        removed = np.array(choice)
        if all(costs.total(b, removed) <= limit * (1 + 1e-9) for b, limit in budgets.items()):
            best = min(best, sum(e[i] for e, i in zip(errors, choice, strict=True)))
    return best


def checked(errors: list[np.ndarray], costs: Costs, budgets: dict[str, float], allowed: list[list[int]]) -> float:
    """The error that was reached; what it says of itself is true."""
    found = choose_counts(errors, costs, budgets, allowed)
    assert all(int(i) in a for i, a in zip(found.removed, allowed, strict=True))
    assert found.error == pytest.approx(sum(e[i] for e, i in zip(errors, found.removed, strict=True)))
    for name, limit in budgets.items():
        assert found.costs[name] == pytest.approx(costs.total(name, found.removed))
        assert found.costs[name] <= limit * (1 + 1e-9)
    return found.error


def limits_of(costs: Costs, allowed: list[list[int]], share: float) -> dict[str, float]:
    """A share of the way from the least to the dense."""
    most, zero = np.array([a[-1] for a in allowed]), np.zeros(len(allowed), dtype=int)
    least = {b: costs.total(b, most) for b in costs.of}
    return {b: least[b] + share * (costs.total(b, zero) - least[b]) for b in costs.of}


SIZES = st.lists(st.integers(2, 6), min_size=1, max_size=3)


@given(SIZES, st.integers(0, 999), st.floats(0, 1), st.sampled_from(["separable", "chain"]), st.integers(1, 3))
def test_no_budget_is_exceeded_and_allowed_counts_are_respected(
    sizes: list[int], seed: int, share: float, kind: str, step: int
) -> None:
    errors = curves(sizes, seed)
    costs = separable(sizes, [1.0 + g for g in range(len(sizes))]) if kind == "separable" else chain(sizes, seed)
    allowed = [list(range(0, size, step)) for size in sizes]
    budgets = limits_of(costs, allowed, share)
    reached = checked(errors, costs, budgets, allowed)
    assert reached >= brute(errors, costs, budgets, allowed) - 1e-9
    assert (
        choose_counts(errors, costs, budgets, allowed).removed.tolist()
        == choose_counts(errors, costs, budgets, allowed).removed.tolist()
    )


def regret(kind: str, shape: str, budgets: tuple[str, ...] = ("macs",)) -> np.ndarray:
    """Reached error less the best, in shares of the largest, over many small problems."""
    found = []
    for seed in range(60):
        sizes = [3 + seed % 4, 5, 2 + seed % 3]
        errors, allowed = curves(sizes, seed, shape), [list(range(size)) for size in sizes]
        costs = separable(sizes, [1.0, 2.0, 3.0]) if kind == "separable" else chain(sizes, seed, budgets)
        limits = limits_of(costs, allowed, 0.2 + 0.6 * (seed % 7) / 6)
        worst = sum(e[a[-1]] for e, a in zip(errors, allowed, strict=True))
        found.append((checked(errors, costs, limits, allowed) - brute(errors, costs, limits, allowed)) / worst)
    return np.array(found)


@pytest.mark.parametrize(
    ("kind", "shape", "budgets", "mean", "most"),
    [
        ("separable", "convex", ("macs",), 0.01, 0.15),
        ("separable", "any", ("macs",), 0.04, 0.45),
        ("chain", "convex", ("macs",), 0.01, 0.15),
        ("chain", "any", ("macs",), 0.01, 0.2),
        ("chain", "any", ("macs", "params"), 0.01, 0.25),
    ],
)
def test_near_the_best_of_all_choices(
    kind: str, shape: str, budgets: tuple[str, ...], mean: float, most: float
) -> None:
    """Prices reach the convex hull alone, and groups of 2 to 6 units leave much room between its corners."""
    found = regret(kind, shape, budgets)
    assert found.mean() < mean, found.mean()
    assert found.max() < most, found.max()


def test_one_written_out() -> None:
    """Both cost the same; the first loses less per unit, until its third."""
    errors = [np.array([0.0, 1, 2, 9]), np.array([0.0, 3, 6, 12])]
    costs = separable([3, 3], [3.0, 3.0])
    for limit, removed in ((9, [0, 0]), (8, [1, 0]), (7, [2, 0]), (6, [2, 1]), (5, [2, 2])):
        found = choose_counts(errors, costs, {"macs": float(limit)}, [[0, 1, 2], [0, 1, 2]])
        assert found.removed.tolist() == removed
        assert found.costs == {"macs": float(limit)}


def test_a_looser_budget_is_not_worse_on_average() -> None:
    shares, rows = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0], []
    for seed in range(20):
        errors, allowed = curves([5, 4, 6], seed), [list(range(5)), list(range(4)), list(range(6))]
        costs = chain([5, 4, 6], seed)
        rows.append([checked(errors, costs, limits_of(costs, allowed, s), allowed) for s in shares])
    mean = np.array(rows).mean(0)
    assert bool((np.diff(mean) <= 0).all())
    assert mean[-1] == 0


def test_a_flat_stretch_is_not_the_end() -> None:
    """Giving one unit back gains nothing, giving two back gains all; the budget has room for both."""
    errors = [np.array([0.0, 5.0, 5.0]), np.array([0.0, 1.0])]
    found = choose_counts(errors, separable([2, 1], [2.0, 1.0]), {"macs": 5.0}, [[0, 1, 2], [0, 1]])
    assert found.removed.tolist() == [0, 1]


@given(SIZES, st.integers(0, 99))
def test_a_budget_out_of_reach_names_the_least(sizes: list[int], seed: int) -> None:
    costs, allowed = chain(sizes, seed), [list(range(size)) for size in sizes]
    least = costs.total("macs", np.array([a[-1] for a in allowed]))
    with pytest.raises(UserError, match="macs") as caught:
        choose_counts(curves(sizes, seed), costs, {"macs": least * 0.99}, allowed)
    assert f"{least:.6g}" in str(caught.value)
    checked(curves(sizes, seed), costs, {"macs": least}, allowed)


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1.0, 1e9, 1e20])
def test_the_scale_of_the_errors_does_not_matter(scale: float) -> None:
    errors, allowed, costs = curves([5, 4], 3, "convex"), [list(range(5)), list(range(4))], chain([5, 4], 3)
    limits = limits_of(costs, allowed, 0.5)
    plain = choose_counts(errors, costs, limits, allowed).removed.tolist()
    assert choose_counts([e * scale for e in errors], costs, limits, allowed).removed.tolist() == plain


def test_nothing_lost_by_anything_and_no_groups() -> None:
    allowed, costs = [[0, 1, 2]], separable([3], [3.0])
    assert checked([np.zeros(4)], costs, {"macs": 4.5}, allowed) == 0
    empty = Costs((), {"macs": []}, {"macs": 2.0})
    assert checked([], empty, {"macs": 2.0}, []) == 0
    with pytest.raises(UserError):
        choose_counts([], empty, {"macs": 1.0}, [])


def test_layers_of_a_network() -> None:
    """Parameters that are left, counted, are the sum of the layers' costs."""
    net: Any = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.ReLU(),
        nn.Conv2d(6, 4, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3, bias=False),
    )  # fmt: skip
    groups = trace(net, torch.randn(1, 3, 6, 6)).groups
    layers = layers_of(net, groups)
    sizes = {n: p.numel() for n, p in net.named_parameters()}
    costs = Costs(layers, {"params": [proportional(float(sizes[layer.name])) for layer in layers]})
    assert [layer.name for layer in layers] == ["0.weight", "2.weight", "4.weight", "7.weight"]
    assert [g.size for g in groups] == [6, 4]
    for a, b in itertools.product(range(6), range(4)):
        left = (6 - a) * (3 * 9 + 9 + 4 - b) + (4 - b) * 4 * 3
        assert costs.total("params", np.array([a, b])) == pytest.approx(left)
