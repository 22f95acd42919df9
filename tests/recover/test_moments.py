"""Sums over batches against float64 brute force, and least squares against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.recover.moments import DAMPING, Moments, least_squares


def rows_of(groups: int, columns: int, outputs: int, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, columns, rows, generator=generator) + 0.5
    return x, torch.randn(outputs, rows, generator=generator) * 2 - 1


def moments_of(x: Tensor, y: Tensor) -> Moments:
    moments = Moments.empty(x.shape[0], x.shape[1], y.shape[0])
    moments.add(x, y)
    return moments


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x.double(), torch.ones(x.shape[0], 1, x.shape[2], dtype=torch.float64)], dim=1)


def lstsq(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
    """[groups, outputs per group, columns + 1] by numpy, least norm where many fit."""
    groups, columns, rows = x.shape
    weight = torch.zeros(groups, y.shape[0] // groups, columns + 1, dtype=torch.float64)
    index = [*kept.nonzero().flatten().tolist(), columns]
    for group, target in enumerate(y.double().reshape(groups, -1, rows)):
        design = with_ones(x)[group, index].T.numpy()
        weight[group][:, index] = torch.from_numpy(np.linalg.lstsq(design, target.T.numpy(), rcond=1e-9)[0].T)
    return weight


def brute_error(weight: Tensor, x: Tensor, y: Tensor) -> float:
    return float((y.double() - (weight @ with_ones(x)).flatten(0, 1)).square().sum())


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.lists(st.integers(1, 5), min_size=1, max_size=4)
)
def test_any_split_into_batches_gives_the_brute_force_sums(
    groups: int, columns: int, per: int, batches: list[int]
) -> None:
    x, y = rows_of(groups, columns, groups * per, sum(batches))
    moments = Moments.empty(groups, columns, groups * per)
    for part_x, part_y in zip(x.split(batches, 2), y.split(batches, 1), strict=True):
        moments.add(part_x, part_y)
    ones = with_ones(x)
    targets = y.double().reshape(groups, per, -1)
    torch.testing.assert_close(moments.xx, ones @ ones.transpose(1, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.xy, ones @ targets.transpose(1, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.yy, y.double().square().sum(1), rtol=1e-6, atol=1e-6)
    assert moments.rows == sum(batches)
    assert moments.variance == pytest.approx(float(y.double().var(1, correction=0).sum()), rel=1e-5, abs=1e-9)
    weight = torch.randn(groups, per, columns + 1, dtype=torch.float64)
    assert moments.error(weight) == pytest.approx(brute_error(weight, x, y), rel=1e-4, abs=1e-4)


def test_large_means_do_not_swallow_the_variation() -> None:
    """Values around 3000 with deviations of 1: float32 sums of squares alone would lose them."""
    x, y = rows_of(1, 3, 2, 5000)
    x, y = x + 3000, y - 3000
    moments = moments_of(x, y)
    assert moments.variance == pytest.approx(float(y.double().var(1, correction=0).sum()), rel=1e-4)
    true = with_ones(x) @ with_ones(x).transpose(1, 2)
    torch.testing.assert_close(moments.xx, true, rtol=1e-8, atol=0)


def test_half_precision_is_summed_in_more() -> None:
    x, y = rows_of(1, 3, 2, 5000)
    x, y = x.bfloat16(), y.bfloat16()
    true = with_ones(x) @ with_ones(x).transpose(1, 2)
    torch.testing.assert_close(moments_of(x, y).xx, true, rtol=1e-5, atol=1e-3)


def test_memory_is_that_of_the_columns_not_the_rows() -> None:
    small, large = (moments_of(*rows_of(2, 3, 4, rows)) for rows in (5, 5000))
    assert small.xx.shape == large.xx.shape == (2, 4, 4)
    assert small.xy.shape == large.xy.shape == (2, 4, 2)
    assert small.yy.shape == large.yy.shape == (4,)
    assert large.xx.untyped_storage().nbytes() == 2 * 4 * 4 * 8


@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_least_squares_on_the_kept_columns(groups: int, columns: int, data: st.DataObject) -> None:
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns)))
    x, y = rows_of(groups, columns, groups * 2, 40)
    found = least_squares(moments_of(x.double(), y.double()), kept, damping=1e-12)
    torch.testing.assert_close(found.weight, lstsq(x, y, kept), rtol=1e-6, atol=1e-6)
    assert bool((found.weight[:, :, :-1][:, :, ~kept] == 0).all())
    assert found.damping == 1e-12


def test_one_written_out() -> None:
    """y = 2x + 1 exactly; without the column, the mean."""
    x, y = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[1.0, 3.0, 5.0]])
    moments = moments_of(x, y)
    found = least_squares(moments, torch.tensor([True]), damping=0.0)
    torch.testing.assert_close(found.weight, torch.tensor([[[2.0, 1.0]]], dtype=torch.float64))
    alone = least_squares(moments, torch.tensor([False]), damping=0.0)
    torch.testing.assert_close(alone.weight, torch.tensor([[[0.0, 3.0]]], dtype=torch.float64))
    assert moments.error(alone.weight) == pytest.approx(8.0)
    assert moments.variance == pytest.approx(8 / 3)


def test_damping_pulls_to_the_prior() -> None:
    x, y = rows_of(1, 3, 2, 20)
    prior = torch.randn(1, 2, 4)
    kept = torch.tensor([True, False, True])
    near = least_squares(moments_of(x, y), kept, damping=1.0, prior=prior).weight
    scale = float(with_ones(x)[:, [0, 2, 3]].square().sum(2).mean())
    design = torch.cat([with_ones(x)[0, [0, 2, 3]].T, scale**0.5 * torch.eye(3)])
    target = torch.cat([y.double().T, scale**0.5 * prior[0, :, [0, 2, 3]].double().T])
    true = torch.linalg.lstsq(design, target).solution.T
    torch.testing.assert_close(near[0][:, [0, 2, 3]], true, rtol=1e-5, atol=1e-5)
    assert bool((near[0, :, 1] == 0).all())


@pytest.mark.parametrize("case", ["dead", "twice", "few rows", "all dead", "one row", "huge", "tiny"])
def test_singular_statistics_give_finite_weights_and_tell_the_damping(case: str) -> None:
    x, y = rows_of(1, 4, 2, {"few rows": 3, "one row": 1}.get(case, 50))
    if case == "dead":
        x[:, 1] = 0
    if case == "twice":
        x[:, 1] = x[:, 0]
    if case == "all dead":
        x.zero_()
    x = x * {"huge": 1e15, "tiny": 1e-15}.get(case, 1.0)
    kept = torch.ones(4, dtype=torch.bool)
    moments = moments_of(x, y)
    for damping in (0.0, DAMPING):
        found = least_squares(moments, kept, damping)
        assert bool(found.weight.isfinite().all())
        assert damping <= found.damping <= 1
    best = brute_error(lstsq(x, y, kept), x, y)
    least = {"tiny": brute_error(lstsq(x, y, ~kept), x, y)}.get(case, best)  # 1e-15 is nothing beside the bias
    assert brute_error(found.weight, x, y) <= least + 1e-3 * float(y.square().sum())


def test_a_dead_column_keeps_its_prior() -> None:
    x, y = rows_of(1, 3, 2, 50)
    x[:, 1] = 0
    prior = torch.randn(1, 2, 4)
    found = least_squares(moments_of(x, y), torch.ones(3, dtype=torch.bool), prior=prior)
    torch.testing.assert_close(found.weight[0, :, 1], prior[0, :, 1].double())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["input", "target"])
def test_what_is_not_finite_is_an_error(value: float, side: str) -> None:
    x, y = rows_of(1, 3, 2, 10)
    (x if side == "input" else y)[0, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        least_squares(moments_of(x, y), torch.ones(3, dtype=torch.bool))
