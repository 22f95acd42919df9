"""Measurements are taken once and replayed; a torn last line is dropped, damage elsewhere is an error."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.pipeline.journal import Journal


def never() -> float:
    raise AssertionError("this was recorded and must not be measured again")


def test_a_recorded_value_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert Journal(path).measure("latency", lambda: {"p50": 1.25}) == {"p50": 1.25}
    assert Journal(path).measure("latency", never) == {"p50": 1.25}


def test_the_first_value_is_the_one_that_a_replay_sees(tmp_path: Path) -> None:
    """Tuples become lists and keys become text in JSON: at once, not only after a restart."""
    path = tmp_path / "journal.jsonl"
    first = Journal(path).measure("x", lambda: {1: (2, 3)})
    assert first == {"1": [2, 3]} == Journal(path).measure("x", never)


@given(cut=st.integers(min_value=0, max_value=80))
def test_any_torn_tail_loses_at_most_the_torn_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journal = Journal(path)
    for i in range(4):
        journal.measure(f"k{i}", functools.partial(int, i))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    left = path.read_bytes().count(b"\n")
    again = Journal(path)
    for i in range(4):
        assert again.measure(f"k{i}", never if i < left else functools.partial(int, i + 100)) == (
            i if i < left else i + 100
        )
    assert len(Journal(path)._values) == 4  # the appended lines are whole


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a", "value": 1}\nrubbish\n{"key": "b", "value": 2}\n')
    with pytest.raises(UserError, match="line 2") as caught:
        Journal(path)
    assert str(path) in str(caught.value)


def test_nan_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(tmp_path / "j").measure("x", lambda: float("nan"))
