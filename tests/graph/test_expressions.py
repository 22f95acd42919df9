"""Numbers that remember where they came from: trees survive arithmetic and stand for the plain number."""

from __future__ import annotations

import math
import operator
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.graph.expressions import ATTRIBUTE, COUNT, SizeFloat, SizeInt, evaluate, leaves, substitute

STEPS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv)
WIDTH = (ATTRIBUTE, 0)


class Book:
    """Remembers what was compared."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    def met(self, left: Any, right: Any) -> None:
        self.seen.append((left, right))


def sized(value: int) -> SizeInt:
    return SizeInt.of(value, WIDTH, None)


STEP = st.tuples(st.integers(0, len(STEPS) - 1), st.integers(1, 9), st.booleans())


@given(st.integers(1, 64), st.lists(STEP, min_size=1, max_size=5))
def test_the_tree_of_any_arithmetic_evaluates_to_the_plain_number(start: int, steps: list[Any]) -> None:
    plain: Any = start
    number: Any = sized(start)
    for which, constant, reflected in steps:
        compute = STEPS[which]
        if reflected and not plain:
            return  # nothing is divided by zero
        plain = compute(constant, plain) if reflected else compute(plain, constant)
        number = compute(constant, number) if reflected else compute(number, constant)
    assert float(number) == plain
    assert isinstance(number, SizeInt) == isinstance(plain, int)
    assert evaluate(number.tree, lambda _: start) == plain
    assert set(leaves(number.tree)) == {WIDTH}


@given(st.integers(2, 40), st.integers(2, 40))
def test_the_tree_stands_for_the_number_after_a_change_as_well(before: int, after: int) -> None:
    quotient, rest = divmod(sized(before) * 3 + 1, 2)
    assert evaluate(quotient.tree, lambda _: after) == (after * 3 + 1) // 2
    assert evaluate(rest.tree, lambda _: after) == (after * 3 + 1) % 2


@given(st.integers(1, 50))
def test_rounding_and_signs_keep_the_tree(value: int) -> None:
    for made, expected in [
        (-sized(value), -value),
        (math.floor(sized(value) / 3), math.floor(value / 3)),
        (math.ceil(sized(value) / 3), math.ceil(value / 3)),
        (round(sized(value) / 3), round(value / 3)),
        (sized(value) ** -0.5, value**-0.5),
    ]:
        assert made == expected
        assert evaluate(made.tree, lambda _: value) == pytest.approx(expected)


def test_trees_are_written_as_they_were_computed() -> None:
    assert (2 * sized(8) + 1).tree == ("+", ("*", 2, WIDTH), 1)
    assert (sized(8) / 2).tree == ("/", WIDTH, 2)
    assert isinstance(sized(8) / 2, SizeFloat)


def test_what_python_makes_plain_has_no_tree() -> None:
    assert type(int(sized(8) / 2)) is int
    assert type(pickle.loads(pickle.dumps(sized(8)))) is int


def test_equal_numbers_are_reported_and_unequal_ones_are_not() -> None:
    book = Book()
    eight = SizeInt.of(8, WIDTH, book)
    assert eight != 7
    assert not book.seen
    assert eight == 8
    assert book.seen == [(WIDTH, 8)]
    assert len({eight, 8}) == 1


def test_substitution_replaces_every_leaf() -> None:
    tree = ("+", (COUNT, 1), ("*", (COUNT, 1), (ATTRIBUTE, 0)))
    assert substitute(tree, lambda leaf: 5 if leaf[0] == COUNT else leaf) == ("+", 5, ("*", 5, (ATTRIBUTE, 0)))
    assert list(leaves(tree)) == [(COUNT, 1), (COUNT, 1), (ATTRIBUTE, 0)]
