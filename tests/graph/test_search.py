"""The search for kept counts against exhaustive enumeration, on small random systems."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.graph.expressions import ATTRIBUTE, COUNT, Tree, evaluate
from neuroprune.graph.search import Problem, Variable

Key = tuple[str, int]
SIZES = (2, 3, 4, 6)


@st.composite
def systems(draw: st.DrawFn) -> tuple[dict[Key, Variable], list[tuple[Tree, Tree]], dict[tuple[Key, ...], float]]:
    """Two or three groups and an attribute; equations that the dense values solve, as those of a trace do."""
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=2, max_size=3))
    groups = [(COUNT, i) for i in range(len(sizes))]
    variables = {
        key: Variable(size, draw(st.integers(1, size)), tuple(range(1, size + 1)), 0.0)
        for key, size in zip(groups, sizes, strict=True)
    }
    held = draw(st.sampled_from(SIZES))
    variables[(ATTRIBUTE, 0)] = Variable(held, held, None, 0.0)
    known = {key: v.size for key, v in variables.items()}
    equations = []
    for _ in range(draw(st.integers(0, 3))):
        left, right = (
            (draw(st.sampled_from("+*")), draw(st.sampled_from(groups)), draw(st.sampled_from([*variables, 2])))
            for _ in range(2)
        )
        difference = evaluate(left, known.__getitem__) - evaluate(right, known.__getitem__)
        equations.append((left, ("+", right, difference)))
    weights: dict[tuple[Key, ...], float] = {(key,): draw(st.integers(1, 9)) / 10 for key in groups}
    return variables, equations, weights


def cost(variables: dict[Key, Variable], weights: dict[tuple[Key, ...], float], values: dict[Key, int]) -> float:
    """Share of each group missed, by weight."""
    return sum(
        w * abs(values[k] - variables[k].wanted) / variables[k].size for (k,), w in weights.items()
    )  # fmt: skip


def feasible(
    variables: dict[Key, Variable], equations: list[tuple[Tree, Tree]], fixed: dict[Key, int] | None = None
) -> list[dict[Key, int]]:
    """Every solution, by trying all numbers (the attribute as far as the search looks)."""
    ranges = [v.values or range(2 * v.size + 9) for v in variables.values()]
    found = []
    for numbers in itertools.product(*ranges):
        values = dict(zip(variables, numbers, strict=True))
        if any(values[k] != n for k, n in (fixed or {}).items()):
            continue
        look = values.__getitem__
        if all(evaluate(left, look) == evaluate(right, look) for left, right in equations):
            found.append(values)
    return found


@settings(max_examples=150, deadline=None)
@given(systems())
def test_the_choice_is_feasible_and_as_cheap_as_the_best_of_all(system: Any) -> None:
    variables, equations, weights = system
    found = Problem(variables, equations, weights).solve()
    groups = {k: found[k] for k in variables if k[0] == COUNT}
    everything = feasible(variables, equations)
    assert any(all(s[k] == n for k, n in groups.items()) for s in everything), "no attribute fits this choice"
    best = min(cost(variables, weights, s) for s in everything)
    assert abs(cost(variables, weights, found) - best) < 1e-9


@settings(max_examples=150, deadline=None)
@given(systems(), st.randoms(use_true_random=False))
def test_given_counts_are_solved_exactly_when_enumeration_solves_them(system: Any, random: Any) -> None:
    variables, equations, weights = system
    chosen = {k: random.randint(1, v.size) for k, v in variables.items() if k[0] == COUNT}
    exact = {
        k: Variable(v.size, v.wanted, (chosen[k],) if k in chosen else None, 0.0) for k, v in variables.items()
    }
    found = Problem(exact, equations, weights).exactly()
    everything = feasible(exact, equations)
    assert (found is not None) == bool(everything)
    if found is not None and (ATTRIBUTE, 0) in {k for e in equations for t in e for k in _keys(t)}:
        assert any(s == found for s in everything)


def _keys(tree: Tree) -> list[Key]:
    if not isinstance(tree, tuple):
        return []
    return [tree] if tree[0] in (ATTRIBUTE, COUNT) else [*_keys(tree[1]), *_keys(tree[2])]


def test_two_widths_joined_to_one_fixed_sum_trade_against_each_other() -> None:
    """a + b == 6 with both wanted at half: only one of them can shrink below 2 + 4, so nothing is cut."""
    a, b = (COUNT, 0), (COUNT, 1)
    variables = {a: Variable(2, 1, (1, 2), 0.0), b: Variable(4, 2, (1, 2, 3, 4), 0.0)}
    found = Problem(variables, [(("+", a, b), 6)], {(a,): 1 / 3, (b,): 2 / 3}).solve()
    assert found == {a: 2, b: 4}


def test_a_coarse_factor_does_not_decide_for_a_fine_one() -> None:
    """Two heads of 32: three tenths of the heads is one of two, three tenths of the dimensions ten of 32."""
    heads, dims = (COUNT, 0), (COUNT, 1)
    variables = {heads: Variable(2, 1, (1, 2), 0.0), dims: Variable(32, 22, tuple(range(1, 33)), 0.04)}
    assert Problem(variables, [], {(heads, dims): 1.0}).solve() == {heads: 2, dims: 22}
    half = {heads: Variable(2, 1, (1, 2), 0.0), dims: Variable(32, 16, tuple(range(1, 33)), 0.04)}
    assert Problem(half, [], {(heads, dims): 1.0}).solve() == {heads: 1, dims: 32}
    alone = {heads: Variable(2, 1, (1, 2), 0.0), dims: Variable(32, 32, (32,), 0.04)}
    assert Problem(alone, [], {(heads, dims): 1.0}).solve() == {heads: 1, dims: 32}
