"""Every registered strategy keeps the contract, and does what its name says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neuroprune.base.errors import UserError
from neuroprune.search._base import STRATEGIES, best_of
from neuroprune.search.evaluate import Result
from neuroprune.search.strategies.evolution import POPULATION, mutated
from neuroprune.testing.strategy_contract import BUDGET, SPACES, StrategyContract, judged


class TestRandom(StrategyContract):
    name = "random"


class TestUniform(StrategyContract):
    name = "uniform"

    def test_the_first_point_is_the_largest_share_that_fits(self) -> None:
        space = SPACES["widths"]
        first = self.make(space).ask()
        by_hand = max(
            (t / 1000 for t in range(1, 1001)
             if space.fits(space.round(type(first)((t / 1000,) * 3)), BUDGET)),
        )  # fmt: skip
        assert space.counts(first) == space.counts(type(first)((by_hand,) * 3))

    def test_its_neighbours_move_one_group_against_the_others(self) -> None:
        space = SPACES["widths"]
        points = self.run(self.make(space), 7)
        first = points[0]
        assert len(set(points)) > 3
        for number, point in enumerate(points[1:]):
            group = number % 3
            moved = np.sign(np.array(point.shares) - np.array(first.shares))
            wanted = -1 if number < 3 else 1
            assert moved[group] in (0, wanted)
            assert all(sign in (0, -wanted) for n, sign in enumerate(moved) if n != group)


class TestEvolution(StrategyContract):
    name = "evolution"

    def test_children_are_new_and_better_than_chance(self) -> None:
        space = SPACES["widths"]
        strategy = self.make(space)
        points = self.run(strategy, 2 * POPULATION)
        random, children = points[:POPULATION], points[POPULATION:]
        means = [np.mean([judged(space, p).score for p in half]) for half in (random, children)]
        assert means[1] > means[0]

    def test_something_changes_and_only_a_block_or_kernel_at_a_time(self) -> None:
        space, generator = SPACES["blocks_and_kernels"], np.random.default_rng(0)
        point = space.whole()
        for _ in range(50):
            child = mutated(space, point, generator)
            assert len(set(child.gone) ^ set(point.gone)) + len(set(child.shrunk) ^ set(point.shrunk)) <= 1
            assert child != point or max(child.shares) == 1.0
            point = child


class TestAllocated(StrategyContract):
    name = "dp"

    @pytest.mark.parametrize("kind", ["widths", "one_group", "multiples_of_four"])
    def test_its_first_point_has_the_least_error_of_all_that_fit(self, kind: str) -> None:
        space = SPACES[kind]
        counts = space.counts(self.make(space).ask())
        errors = {
            kept: sum(w.errors[w.size - n] for w, n in zip(space.widths, kept, strict=True))
            for kept in itertools.product(*(w.kept for w in space.widths))
            if space.fits(
                type(space.whole())(tuple(n / w.size for w, n in zip(space.widths, kept, strict=True))), BUDGET
            )
        }
        assert errors[counts] == pytest.approx(min(errors.values()))

    def test_it_says_what_it_lacks(self) -> None:
        from dataclasses import replace

        space = SPACES["widths"]
        bare = replace(space, widths=tuple(replace(w, errors=()) for w in space.widths))
        with pytest.raises(UserError, match="curves of errors"):
            self.make(bare)


@pytest.mark.extras
class TestTpe(StrategyContract):
    name = "tpe"

    @pytest.fixture(autouse=True)
    def _optuna(self) -> None:
        pytest.importorskip("optuna")


@pytest.mark.extras
class TestNsga2(StrategyContract):
    name = "nsga2"

    @pytest.fixture(autouse=True)
    def _optuna(self) -> None:
        pytest.importorskip("optuna")

    def test_it_looks_below_the_budget_too(self) -> None:
        space = SPACES["widths"]
        limit = space.limits(BUDGET)["macs"]
        assert min(space.cost(p)["macs"] for p in self.run(self.make(space), 40)) < 0.75 * limit


def test_every_strategy_is_under_contract() -> None:
    covered = {kind.name for kind in StrategyContract.__subclasses__()}
    assert covered >= set(STRATEGIES.names()) - {"rl"}  # rl: test_rl.py


def test_an_unknown_strategy_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'evolution'"):
        STRATEGIES.get("evolutoin")


def test_without_a_feasible_point_the_best_is_the_best_of_all() -> None:
    space = SPACES["widths"]
    bad, worse = (Result(50.0, reward, {"macs": 1.0}, False, 0.0) for reward in (2.0, 1.0))
    assert best_of([(space.whole(), worse), (space.whole(), bad)]) == (space.whole(), bad)
    good = Result(1.0, -5.0, {"macs": 1.0}, True, 0.0)
    assert best_of([(space.whole(), bad), (space.whole(), good)]) == (space.whole(), good)
    assert best_of([]) is None
