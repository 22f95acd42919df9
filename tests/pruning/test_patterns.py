"""Patterns: the members of a block share a value, and N:M keeps N of M; against loops and numbers by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.base.errors import UserError
from neuroprune.pruning.patterns import pattern

SIZES = st.integers(1, 7)


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_blocks_of_a_matrix_by_hand() -> None:
    saliency = torch.tensor([[1.0, 2, 3], [3, 4, 5], [7, 8, 9]])
    assert torch.equal(pattern("row").pool(saliency), torch.tensor([[2.0] * 3, [4] * 3, [8] * 3]))
    assert torch.allclose(pattern("column").pool(saliency), torch.tensor([[11 / 3, 14 / 3, 17 / 3]] * 3))
    assert torch.equal(pattern("2x1").pool(saliency), torch.tensor([[2.0, 3, 4], [2, 3, 4], [7, 8, 9]]))
    assert torch.equal(pattern("1x2").pool(saliency), torch.tensor([[1.5, 1.5, 3], [3.5, 3.5, 5], [7.5, 7.5, 9]]))
    grouped = torch.tensor([[2.5, 2.5, 4], [2.5, 2.5, 4], [7.5, 7.5, 9]])
    assert torch.equal(pattern("groups:2").pool(saliency), grouped)


@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_blocks_share_their_mean_at_each_kernel_position(o: int, i: int, k: int, rows: int, columns: int) -> None:
    saliency = drawn(o, i, k, k)
    found = pattern(f"{rows}x{columns}").pool(saliency)
    for r, c, y, x in itertools.product(range(o), range(i), range(k), range(k)):
        top, left = r // rows * rows, c // columns * columns
        block = saliency[top : top + rows, left : left + columns, y, x]
        assert float(found[r, c, y, x]) == pytest.approx(float(block.mean()))


@given(SIZES, SIZES, st.integers(1, 3))
def test_kernels_rows_and_columns(o: int, i: int, k: int) -> None:
    saliency = drawn(o, i, k, k)
    for r, c in itertools.product(range(o), range(i)):
        for name, part in (("kernel", saliency[r, c]), ("row", saliency[r]), ("column", saliency[:, c])):
            assert torch.allclose(pattern(name).pool(saliency)[r, c], part.mean()), name


@given(SIZES, st.integers(1, 9), st.integers(1, 3), st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8)]))
def test_n_of_m_keeps_the_largest_of_each_run_of_inputs(o: int, i: int, k: int, n_m: tuple[int, int]) -> None:
    n, m = n_m
    saliency = drawn(o, i, k)
    mask = pattern(f"{n}:{m}").mask(saliency)
    for r, x, first in itertools.product(range(o), range(k), range(0, i, m)):
        values, kept = saliency[r, first : first + m, x], mask[r, first : first + m, x]
        count = -(-n * len(values) // m)
        assert int(kept.sum()) == count
        assert float(values[kept == 1].min()) >= float(values[kept == 0].max() if count < len(values) else -1)


def test_two_of_four_by_hand() -> None:
    saliency = torch.tensor([[4.0, 1, 3, 2, 1, 2], [0, 0, 0, 0, 5, 5]])
    expected = torch.tensor([[1.0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0]])
    assert torch.equal(pattern("2:4").mask(saliency), expected)


@pytest.mark.parametrize("name", ["4by1", "4:2", "2:2", "0x4", "0:4", "groups:0", "", "rows"])
def test_unknown_patterns_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="pattern"):
        pattern(name)
