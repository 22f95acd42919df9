"""Every registered strategy keeps the contract, and does what its name says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neuroprune.base.errors import UserError
from neuroprune.search._base import STRATEGIES, best_of
from neuroprune.search.evaluate import Result
from neuroprune.search.strategies.evolution import POPULATION, mutated
from neuroprune.testing.strategy_contract import BUDGET, SPACES, StrategyContract, judged, space


class TestRandom(StrategyContract):
    name = "random"
    asked = 8


class TestUniform(StrategyContract):
    name = "uniform"
    asked = 12

    def test_the_first_point_is_the_largest_share_that_fits(self) -> None:
        given = SPACES["widths"]
        first = self.make(given).ask()
        by_hand = max(
            (t / 1000 for t in range(1, 1001)
             if given.fits(given.round(type(first)((t / 1000,) * 3)), BUDGET)),
        )  # fmt: skip
        assert given.counts(first) == given.counts(type(first)((by_hand,) * 3))

    def test_its_neighbours_are_new_and_move_one_group_against_the_others(self) -> None:
        fine = space((80, 60, 120))
        points = self.run(self.make(fine), 12)
        assert len(set(points)) == len(set(self.run(self.make(SPACES["widths"]), 12))) == 12
        for point in points[1:]:
            moved = np.sign(np.array(point.shares) - np.array(points[0].shares))
            assert any(
                all(sign * moved[group] <= 0 for n, sign in enumerate(moved) if n != group) for group in range(3)
            )


class TestEvolution(StrategyContract):
    name = "evolution"

    def test_children_are_new_and_better_than_chance(self) -> None:
        given = SPACES["widths"]
        strategy = self.make(given)
        points = self.run(strategy, 2 * POPULATION)
        random, children = points[:POPULATION], points[POPULATION:]
        means = [np.mean([judged(given, p).score for p in half]) for half in (random, children)]
        assert means[1] > means[0]

    def test_something_changes_and_only_a_block_or_kernel_at_a_time(self) -> None:
        given, generator = SPACES["blocks_and_kernels"], np.random.default_rng(0)
        point = given.whole()
        for _ in range(50):
            child = mutated(given, point, generator)
            assert len(set(child.gone) ^ set(point.gone)) + len(set(child.shrunk) ^ set(point.shrunk)) <= 1
            assert child != point or max(child.shares) == 1.0
            point = child


class TestAllocated(StrategyContract):
    name = "dp"
    asked = 6

    @pytest.mark.parametrize("kind", ["widths", "one_group", "multiples_of_four"])
    def test_its_first_point_has_the_least_error_of_all_that_fit(self, kind: str) -> None:
        given = SPACES[kind]
        counts = given.counts(self.make(given).ask())
        errors = {
            kept: sum(w.errors[w.size - n] for w, n in zip(given.widths, kept, strict=True))
            for kept in itertools.product(*(w.kept for w in given.widths))
            if given.fits(
                type(given.whole())(tuple(n / w.size for w, n in zip(given.widths, kept, strict=True))), BUDGET
            )
        }
        assert errors[counts] == pytest.approx(min(errors.values()))

    def test_it_says_what_it_lacks(self) -> None:
        from dataclasses import replace

        given = SPACES["widths"]
        bare = replace(given, widths=tuple(replace(w, errors=()) for w in given.widths))
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
        given = SPACES["widths"]
        limit = given.limits(BUDGET)["macs"]
        assert min(given.cost(p)["macs"] for p in self.run(self.make(given), 40)) < 0.75 * limit


def test_every_strategy_is_under_contract() -> None:
    covered = {kind.name for kind in StrategyContract.__subclasses__()}
    assert covered >= set(STRATEGIES.names()) - {"rl"}  # rl: test_rl.py


def test_an_unknown_strategy_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'evolution'"):
        STRATEGIES.get("evolutoin")


def test_without_a_feasible_point_the_best_is_the_best_of_all() -> None:
    given = SPACES["widths"]
    bad, worse = (Result(50.0, reward, {"macs": 1.0}, False, 0.0) for reward in (2.0, 1.0))
    assert best_of([(given.whole(), worse), (given.whole(), bad)]) == (given.whole(), bad)
    good = Result(1.0, -5.0, {"macs": 1.0}, True, 0.0)
    assert best_of([(given.whole(), bad), (given.whole(), good)]) == (given.whole(), good)
    assert best_of([]) is None
