"""Ties and products by hand: which labels go together, and of which basic ones the others are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from neuroprune.graph.records import Reason, Records
from neuroprune.graph.resolve import Components, resolve

WHY = Reason("test", "", "", "because")


def records(count: int) -> Records:
    made = Records()
    made.fresh(count)
    return made


def labels(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def bases(found: Components, label: int) -> set[int]:
    return set(found.bases(labels(label))[1].tolist())


def together(found: Components, numbers: Iterable[int]) -> bool:
    return len({frozenset(bases(found, n)) for n in numbers}) == 1


def test_ties_are_transitive_and_leave_the_rest_alone() -> None:
    given = records(5)
    given.tie(labels(1, 2), labels(2, 3), lambda: WHY)
    found = resolve(given)
    assert together(found, (1, 2, 3))
    assert not together(found, (1, 4))
    assert not together(found, (4, 5))


def test_a_tie_to_a_fixed_label_pins() -> None:
    given = records(2)
    given.tie(labels(1, 2), labels(0, 2), lambda: WHY)
    found = resolve(given)
    assert set(np.flatnonzero(found.pinned.all).tolist()) == bases(found, 1)


def test_a_product_is_made_of_its_parts_and_pinning_it_pins_them() -> None:
    """Channels 1..4 are rows 5, 6 times columns 7, 8."""
    given = records(8)
    given.product(labels(1, 2, 3, 4), labels(5, 5, 6, 6), labels(7, 8, 7, 8))
    found = resolve(given)
    assert bases(found, 3) == bases(found, 6) | bases(found, 7)
    assert len(bases(found, 3)) == 2
    given.pin(labels(3), WHY)
    held = resolve(given)
    assert set(np.flatnonzero(held.pinned.all).tolist()) == bases(held, 3) | bases(held, 6) | bases(held, 7)
    assert all(held.pinned.why(c) == WHY for c in np.flatnonzero(held.pinned.all).tolist())


def test_products_of_products_are_expanded_to_the_bottom() -> None:
    """7 is 5 x 6 and 5 is 1 x 2."""
    given = records(7)
    given.product(labels(7), labels(5), labels(6))
    given.product(labels(5), labels(1), labels(2))
    found = resolve(given)
    assert bases(found, 7) == bases(found, 1) | bases(found, 2) | bases(found, 6)


def test_a_fixed_part_drops_out_and_a_fixed_whole_pins_its_parts() -> None:
    given = records(4)
    given.product(labels(1), labels(2), labels(0))
    given.product(labels(0), labels(3), labels(4))
    found = resolve(given)
    assert together(found, (1, 2))
    assert set(np.flatnonzero(found.pinned.all).tolist()) == bases(found, 3) | bases(found, 4)


def test_two_definitions_of_one_whole_are_made_to_agree_place_by_place() -> None:
    """1 is 2 x 3 and 4 x 5, so 2 goes with 4 and 3 with 5."""
    given = records(5)
    given.product(labels(1), labels(2), labels(3))
    given.product(labels(1), labels(4), labels(5))
    found = resolve(given)
    assert together(found, (2, 4))
    assert together(found, (3, 5))
    assert not together(found, (2, 3))


def test_definitions_with_unequal_numbers_of_parts_collapse() -> None:
    given = records(6)
    given.product(labels(1), labels(2), labels(3))
    given.product(labels(1), labels(4), labels(5), labels(6))
    assert together(resolve(given), range(1, 7))


def test_cycles_collapse() -> None:
    """1 is 2 x 3 and 2 is 1 x 4: 1 and 2 go together, and then with their other parts."""
    given = records(5)
    given.product(labels(1), labels(2), labels(3))
    given.product(labels(2), labels(1), labels(4))
    found = resolve(given)
    assert together(found, (1, 2, 3, 4))
    assert not together(found, (1, 5))
