"""A shelf is a dictionary, wherever its tensors lie."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.recover import shelf
from neuroprune.recover.shelf import Shelf


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=20))
def test_it_does_what_a_dictionary_does(steps: list[tuple[str, int]]) -> None:
    """A count of 0 takes the key away; four floats fit into memory, the rest does not."""
    ours, truth = Shelf(), dict[tuple[str, int], torch.Tensor]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "MOST", 16)
        for name, count in steps:
            if count:
                ours[(name, 0)] = truth[(name, 0)] = torch.arange(count, dtype=torch.float32)
            else:
                assert (ours.pop((name, 0), None) is None) == (truth.pop((name, 0), None) is None)
            assert set(ours) == set(truth)
            assert len(ours) == len(truth)
            for key, value in truth.items():
                assert key in ours
                assert torch.equal(ours[key], value)
            assert sum(value.nbytes for value in ours._held.values()) == ours._bytes <= 16


@pytest.mark.parametrize("value", [torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
                                   torch.ones(3, dtype=torch.bfloat16), torch.arange(9.0)[3:6]])  # fmt: skip
def test_type_and_layout_come_back(monkeypatch: pytest.MonkeyPatch, value: torch.Tensor) -> None:
    monkeypatch.setattr(shelf, "MOST", 0)
    held = Shelf()
    held[("a", 0)] = value
    found = held[("a", 0)]
    assert (found.dtype, found.stride()) == (value.dtype, value.stride())
    assert torch.equal(found, value)


def test_files_go_with_what_they_hold_and_with_the_shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shelf, "MOST", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = Shelf()
    for index in range(3):
        held[("a", index)] = torch.ones(2)
    assert len(list(tmp_path.rglob("*.pt"))) == 3
    del held[("a", 1)]
    held[("a", 0)] = torch.zeros(2)
    assert len(list(tmp_path.rglob("*.pt"))) == 2
    del held
    gc.collect()
    assert list(tmp_path.iterdir()) == []
