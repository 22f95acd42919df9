"""Every allocation passes the contract; formulas against counts by hand; regret against every choice there is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from budget.test_solve import brute, chain, curves, limits_of, separable
from torch import nn

from neuroprune.base.progress import SilentProgress
from neuroprune.budget.allocations import ALLOCATIONS, dp
from neuroprune.budget.allocations.erk import _densities
from neuroprune.budget.allocations.lamp import lamp_scores, unit_squares
from neuroprune.budget.evidence import Evidence
from neuroprune.budget.frontier import Term, least_error, order_of
from neuroprune.budget.problem import Costs, Layer, Part, Problem, layers_of, proportional
from neuroprune.budget.solve import choose_counts
from neuroprune.graph.trace import trace
from neuroprune.graph.units import Group
from neuroprune.tasks.task import default_forward
from neuroprune.testing import AllocationContract

for _name in ALLOCATIONS.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (AllocationContract,), {"name": _name})


@ALLOCATIONS.register("third_party_cheapest", summary="all units of one group after another", source="a plug-in")
def cheapest(problem: Problem) -> np.ndarray:
    """Not clever, but within the contract."""
    found = choose_counts(
        [np.arange(len(curve), dtype=float) for curve in problem.errors], problem.costs, problem.limits,
        problem.allowed,
    )  # fmt: skip
    return found.removed


class TestThirdParty(AllocationContract):
    name = "third_party_cheapest"


def groups_of(sizes: list[int]) -> list[Group]:
    return [Group(f"g{n}", size, ()) for n, size in enumerate(sizes)]


def problem(
    errors: list[np.ndarray], costs: Costs, limits: dict[str, float], allowed: list[list[int]], known: Any = None
) -> Problem:
    return Problem(groups_of([len(e) - 1 for e in errors]), errors, costs, limits, allowed, known)


def weighted(*weights: list[list[float]]) -> tuple[Evidence, Problem]:
    """A chain of linear layers with these weights; every parameter costs one."""
    layers: list[nn.Module] = []
    for matrix in weights:
        layer = nn.Linear(len(matrix[0]), len(matrix), bias=False)
        layer.weight.data = torch.tensor(matrix)
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval()
    x = torch.randn(8, len(weights[0][0]))
    found = trace(net, x[:2])
    orders = [np.arange(g.size) for g in found.groups]
    known = Evidence(net, found, found.groups, orders, default_forward, [x], 0, SilentProgress())
    layers_ = layers_of(net, found.groups)
    sizes = {name: float(p.numel()) for name, p in net.named_parameters()}
    costs = Costs(layers_, {"params": [proportional(sizes[one.name]) for one in layers_]})
    allowed = [list(range(g.size)) for g in found.groups]
    errors = [np.arange(g.size + 1, dtype=float) for g in found.groups]
    return known, Problem(found.groups, errors, costs, {"params": sum(sizes.values())}, allowed, known)


def at(given: Problem, limit: float, name: str) -> list[int]:
    found: list[int] = ALLOCATIONS.get(name)(replace(given, limits={"params": limit})).tolist()
    return found


def test_uniform_removes_the_same_share() -> None:
    """Groups of 4 and 8: a quarter is 1 and 2, reached at once; an eighth takes one of the eight alone."""
    costs = separable([4, 8], [4.0, 8.0])  # and 3.0 that no choice changes: 15 in all
    given = problem([np.arange(5.0), np.arange(9.0)], costs, {"macs": 15.0}, [list(range(4)), list(range(8))])
    for limit, removed in ((15.0, [0, 0]), (14.0, [0, 1]), (13.5, [1, 2]), (12.0, [1, 2]), (11.0, [1, 3])):
        assert ALLOCATIONS.get("uniform")(replace(given, limits={"macs": limit})).tolist() == removed


def test_uniform_takes_the_allowed_count_below() -> None:
    costs = separable([4, 8], [4.0, 8.0])
    given = problem([np.arange(5.0), np.arange(9.0)], costs, {"macs": 9.0}, [[0, 2], [0, 4, 6]])
    assert ALLOCATIONS.get("uniform")(given).tolist() == [2, 4]


def test_erk_by_hand() -> None:
    """Densities before eps: (2 + 4) / 8 = 3/4 and (4 + 8) / 32 = 3/8; the smaller is full at eps = 8/3."""
    torch.manual_seed(0)
    _, given = weighted(torch.randn(4, 2).tolist(), torch.randn(8, 4).tolist(), torch.randn(2, 8).tolist())
    assert [g.size for g in given.groups] == [4, 8]
    # eps 4/3: the first layer is full, the second keeps half: 4 of 4, 4 of 8
    assert at(given, 4 * 2 + 4 * 4 + 4 * 2, "erk") == [0, 4]
    # eps 2/3: 1/2 and 1/4: 2 of 4, 2 of 8
    assert at(given, 2 * 2 + 2 * 2 + 2 * 2, "erk") == [2, 6]
    assert at(given, 8 + 32 + 16, "erk") == [0, 0]


def test_erk_is_of_the_layers_that_a_group_is_the_output_of() -> None:
    """A 3x3 kernel [6, 2, 3, 3]: (6 + 2 + 3 + 3) / 108; a depthwise one [6, 1, 3, 3]: (6 + 1 + 3 + 3) / 54."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(6, 2))
    found = trace(net, torch.randn(1, 2, 5, 5))
    assert [g.size for g in found.groups] == [6]
    known = Evidence(net, found, found.groups, [np.arange(6)], default_forward, [], 0, SilentProgress())
    given = Problem(found.groups, [np.zeros(7)], Costs(layers_of(net, found.groups), {}), {}, [[0]], known)
    np.testing.assert_allclose(np.sort(_densities(given)[0]), [14 / 108, 13 / 54])


def test_lamp_scores_by_hand() -> None:
    """Squares 9, 1, 4, 4: over 9, over all 18, and twice over 4 + 4 + 9."""
    np.testing.assert_allclose(lamp_scores(np.array([9.0, 1, 4, 4])), [1, 1 / 18, 4 / 17, 4 / 17])
    np.testing.assert_allclose(lamp_scores(np.zeros(3)), 0)


def test_lamp_puts_all_units_in_one_order() -> None:
    """Units' squares, rows and columns: [1 + 1, 4 + 4], [9 + 0, 1 + 0, 1 + 1]; of the second group only the rows
    and what reads them, the columns of the last layer, belong to it."""
    known, given = weighted([[1.0], [2.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[3.0, 0.5, 2.0]])
    squares = [unit_squares(known.dense, group) for group in given.groups]
    np.testing.assert_allclose(squares[0], [1 + 2, 4 + 2])  # in, and the two columns of the second layer
    np.testing.assert_allclose(squares[1], [1 + 9, 1 + 0.25, 2 + 4])
    # scores: 1/3, 1 and 1, 1.25/17.25, 6/16
    assert at(given, 11 - 1, "lamp") == [0, 1]
    assert at(given, 11 - 4, "lamp") == [1, 1]
    assert at(given, 11 - 6, "lamp") == [1, 1]
    assert at(given, 11 - 7, "lamp") == [1, 2]


def test_global_cuts_where_scores_are_lowest_in_all() -> None:
    """l2 scores relative to each group's mean: the flat group keeps all while the steep one loses most."""
    known, given = weighted(
        [[1.0], [1.0], [1.0]], [[1, 1, 1], [3, 3, 3], [0.1, 0.1, 0.1], [0.2, 0.2, 0.2]], [[1.0] * 4]
    )
    flat, steep = known.scores("l2")
    assert np.allclose(flat, 1)
    assert steep.argsort().tolist() == [2, 3, 0, 1]
    assert float(np.sort(steep)[2]) < 1 < float(np.sort(steep)[3])
    dense = 3 + 12 + 4
    for removed in ([0, 1], [0, 2], [0, 3], [1, 3], [2, 3]):
        left = (3 - removed[0]) + (3 - removed[0]) * (4 - removed[1]) + (4 - removed[1])
        assert at(given, left, "global") == removed
        assert left < dense


def test_sensitivity_takes_the_curves_in_the_place_of_the_errors() -> None:
    class Measured:
        def curves(self) -> list[np.ndarray]:
            return [np.array([0.0, 5, 9, 20]), np.array([0.0, 1, 2, 20])]

    allowed, costs = [[0, 1, 2], [0, 1, 2]], separable([3, 3], [3.0, 3.0])
    misleading = [np.array([0.0, 1, 2, 3]), np.array([0.0, 5, 9, 20])]
    given = problem(misleading, costs, {"macs": 7.0}, allowed, Measured())
    assert ALLOCATIONS.get("sensitivity")(given).tolist() == [0, 2]
    assert ALLOCATIONS.get("stream")(given).tolist() == [2, 0]


KINDS = [
    ("separable", "convex", ("macs",)), ("separable", "any", ("macs",)), ("chain", "convex", ("macs",)),
    ("chain", "any", ("macs",)), ("chain", "any", ("macs", "params")),
]  # fmt: skip


def tiny(seed: int, kind: str, shape: str, budgets: tuple[str, ...]) -> Problem:
    sizes = [3 + seed % 4, 5, 2 + seed % 3]
    errors, allowed = curves(sizes, seed, shape), [list(range(size)) for size in sizes]
    costs = separable(sizes, [1.0, 2.0, 3.0]) if kind == "separable" else chain(sizes, seed, budgets)
    return problem(errors, costs, limits_of(costs, allowed, 0.2 + 0.6 * (seed % 7) / 6), allowed)


def regret(given: Problem, name: str) -> float:
    removed = ALLOCATIONS.get(name)(given)
    reached = sum(curve[n] for curve, n in zip(given.errors, removed, strict=True))
    worst = sum(curve[a[-1]] for curve, a in zip(given.errors, given.allowed, strict=True))
    allowed = [list(a) for a in given.allowed]
    return float(reached - brute(list(given.errors), given.costs, dict(given.limits), allowed)) / float(worst)


@pytest.mark.parametrize(("kind", "shape", "budgets"), KINDS)
def test_regret_against_every_choice(kind: str, shape: str, budgets: tuple[str, ...]) -> None:
    problems = [tiny(seed, kind, shape, budgets) for seed in range(60 if len(budgets) == 1 else 24)]
    stream, best = ([regret(given, name) for given in problems] for name in ("stream", "dp"))
    assert np.mean(stream) < 0.01
    assert np.mean(np.array(stream) > 1e-9) < 0.08  # an eighth to a fifth before pairs exchanged units
    assert all(ours <= theirs + 1e-12 for ours, theirs in zip(best, stream, strict=True))
    if len(budgets) == 1:
        assert max(best) < 1e-9  # exactly the optimum


def hub(leaves: int, size: int, seed: int) -> Costs:
    """A stream that every leaf reads and writes, as in a residual network."""
    generator = np.random.default_rng(seed)
    layers = [Layer("stem", (Part(0, 1 / size),), ())]
    for leaf in range(1, leaves + 1):
        layers.append(Layer(f"{leaf}a", (Part(leaf, 1 / size),), (Part(0, 1 / size),)))
        layers.append(Layer(f"{leaf}b", (Part(0, 1 / size),), (Part(leaf, 1 / size),)))
    return Costs(tuple(layers), {"macs": [proportional(float(v)) for v in generator.uniform(1, 5, len(layers))]})


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_programming_is_exact_where_groups_share_a_stream(seed: int) -> None:
    errors, allowed = curves([4] * 5, seed), [list(range(4))] * 5
    costs = hub(4, 4, seed)
    given = problem(errors, costs, limits_of(costs, allowed, 0.3 + 0.05 * seed), allowed)
    assert regret(given, "dp") < 1e-9


def test_dynamic_programming_with_more_groups_together_than_a_table_holds() -> None:
    """Every pair of 14 groups shares a layer: some stay at their widths, and the result is still not worse."""
    sizes = [6] * 14
    layers = [
        Layer(f"{a}-{b}", (Part(a, 1 / 6),), (Part(b, 1 / 6),)) for a, b in itertools.combinations(range(14), 2)
    ]
    costs = Costs(tuple(layers), {"macs": [proportional(1.0 + n % 5) for n in range(len(layers))]})
    errors, allowed = curves(sizes, 3), [list(range(6))] * 14
    given = problem(errors, costs, limits_of(costs, allowed, 0.4), allowed)
    assert 2 <= len(dp._plan(given).free) < 14
    found = ALLOCATIONS.get("dp")(given)
    stream = ALLOCATIONS.get("stream")(given)
    assert costs.total("macs", found) <= given.limits["macs"] * (1 + 1e-9)
    assert sum(e[n] for e, n in zip(errors, found, strict=True)) <= sum(
        e[n] for e, n in zip(errors, stream, strict=True)
    )


def test_dynamic_programming_gets_nearer_from_counts_far_apart() -> None:
    """From the worst start of all, on groups of too many units for one table."""
    sizes = [300, 200, 260]
    errors, allowed = curves(sizes, 1, "convex"), [list(range(size)) for size in sizes]
    costs = chain(sizes, 1)
    given = problem(errors, costs, limits_of(costs, allowed, 0.5), allowed)
    plan, best = dp._plan(given), np.array([a[-1] for a in allowed])
    step = dp._first_step(given, plan)
    assert step > 1
    while step >= 1:
        best, step = dp._improved(given, plan, best, step), step // 2
    stream = ALLOCATIONS.get("stream")(given)
    reached, wanted = (sum(e[n] for e, n in zip(errors, r, strict=True)) for r in (best, stream))
    assert reached <= 1.02 * wanted


def test_the_frontier_of_a_chain_is_two_groups_and_of_a_hub_too() -> None:
    chained = [(0,), (0, 1), (1, 2), (2, 3), (3,)]
    assert order_of(dict.fromkeys(range(4), 5), chained).states == 25
    star = [(0,)] + [(0, leaf) for leaf in range(1, 6)]
    assert order_of(dict.fromkeys(range(6), 5), star).states == 25
    assert order_of({0: 4, 1: 3}, [(0,), (1,)]).states == 4  # not coupled: one at a time


def test_a_knapsack_by_hand() -> None:
    """Costs left after removal and errors: within 5, the second of each: 2 + 3, error 3 + 1."""
    terms = [
        Term((0,), np.array([4.0, 2, 1]), np.array([0.0, 3, 7])),
        Term((1,), np.array([6.0, 3, 1]), np.array([0.0, 1, 9])),
    ]
    order = order_of({0: 3, 1: 3}, [(0,), (1,)])
    assert least_error({0: 3, 1: 3}, terms, order, 5.0) == {0: 1, 1: 1}
    assert least_error({0: 3, 1: 3}, terms, order, 4.0) == {0: 2, 1: 1}
    assert least_error({0: 3, 1: 3}, terms, order, 10.0) == {0: 0, 1: 0}
    assert least_error({0: 3, 1: 3}, terms, order, 1.9) is None
