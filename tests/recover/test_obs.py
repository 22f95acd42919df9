"""Costs of removals against least squares solved anew without each unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.recover import obs
from neuroprune.recover.obs import Consumer, rank


def problem(groups: int, outputs: int, units: int, each: int, seed: int) -> tuple[Consumer, Tensor]:
    """A consumer of ``units`` units of ``each`` columns (spread over the columns), and the inputs it saw."""
    generator = torch.Generator().manual_seed(seed)
    columns = units * each
    mixed = torch.randn(groups, columns, columns, generator=generator, dtype=torch.float64)
    x = mixed @ torch.randn(groups, columns, 60, generator=generator, dtype=torch.float64) + 0.3
    weight = torch.randn(groups, outputs, columns, generator=generator, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(groups, 1, 60, dtype=torch.float64)], dim=1)
    places = torch.randperm(columns, generator=generator).view(units, each)
    return Consumer(weight, ones @ ones.transpose(1, 2), places), ones


def refit_error(consumer: Consumer, ones: Tensor, gone: list[int]) -> float:
    """Squared error of the best weights on the columns that are left, against what the whole layer gives."""
    left = np.setdiff1d(np.arange(ones.shape[1]), consumer.units[gone].numpy().ravel())
    error = 0.0
    for group, weight in enumerate(consumer.weight.numpy()):
        design = ones[group].numpy().T
        target = design[:, :-1] @ weight.T
        best = np.linalg.lstsq(design[:, left], target, rcond=None)[0]
        error += float(np.square(target - design[:, left] @ best).sum())
    return error / consumer.scale


def brute(problems: list[tuple[Consumer, Tensor]], count: int) -> tuple[list[int], list[float]]:
    order: list[int] = []
    errors = [0.0]
    while len(order) < count:
        left = [u for u in range(count) if u not in order]
        costs = [sum(refit_error(c, x, [*order, u]) for c, x in problems) for u in left]
        order.append(left[int(np.argmin(costs))])
        errors.append(min(costs))
    return order, errors


@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 99),
)
def test_order_and_errors_are_those_of_refits(
    groups: int, outputs: int, units: int, each: int, consumers: int, seed: int
) -> None:
    problems = [problem(groups, outputs, units, each, seed + 1000 * n) for n in range(consumers)]
    order, errors = brute(problems, units)
    found = rank([consumer for consumer, _ in problems], damping=1e-9)
    np.testing.assert_allclose(found.errors, errors, rtol=2e-2, atol=1e-6 * errors[-1])
    assert sorted(found.order.tolist()) == list(range(units))
    assert bool((np.diff(found.errors) >= 0).all())
    assert found.order.tolist() == order


def test_consumers_count_relative_to_their_scale() -> None:
    """Unit 0 matters to the first, unit 1 to the second; the scale says which of them counts."""
    eye = torch.eye(3, dtype=torch.float64)[None] * 100
    eye[0, 2, 2] = 100.0
    places = torch.tensor([[0], [1]])
    one = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    two = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    for scales, first in (((1.0, 10.0), 1), ((10.0, 1.0), 0)):
        consumers = [Consumer(w, eye, places, s) for w, s in zip((one, two), scales, strict=True)]
        found = rank(consumers, damping=1e-9)
        assert found.order[0] == first
        np.testing.assert_allclose(found.errors, [0, 10, 110], rtol=1e-5)
        assert found.scores()[first] == pytest.approx(10, rel=1e-5)


def test_duplicates_and_the_dead_go_first_and_cost_nothing() -> None:
    consumer, ones = problem(1, 3, 5, 1, 4)
    a, b, dead = (int(consumer.units[u, 0]) for u in (1, 3, 4))
    ones[:, b] = ones[:, a]
    ones[:, dead] = 0
    consumer = Consumer(consumer.weight, ones @ ones.transpose(1, 2), consumer.units)
    found = rank([consumer])
    assert set(found.order[:2].tolist()) in ({1, 4}, {3, 4})
    assert found.errors[2] < 1e-3 * found.errors[-1]
    assert found.errors[3] > 1e-3 * found.errors[-1]
    assert bool(np.isfinite(found.errors).all())


def test_a_unit_that_no_weight_reads_goes_first() -> None:
    consumer, _ = problem(1, 3, 4, 2, 5)
    consumer.weight[:, :, consumer.units[2]] = 0
    found = rank([consumer], damping=1e-9)
    assert found.order[0] == 2
    assert found.errors[1] == pytest.approx(0, abs=1e-9 * found.errors[-1])


def test_all_inputs_dead() -> None:
    hessian = torch.zeros(1, 4, 4, dtype=torch.float64)
    hessian[0, 3, 3] = 10
    found = rank([Consumer(torch.ones(1, 2, 3), hessian, torch.arange(3)[:, None])])
    assert bool(np.isfinite(found.errors).all())
    assert sorted(found.order.tolist()) == [0, 1, 2]


def test_scores_rise_with_the_order_of_removal() -> None:
    consumer, _ = problem(2, 2, 6, 1, 6)
    found = rank([consumer])
    assert bool((np.diff(found.scores()[found.order]) >= 0).all())


def test_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        rank([Consumer(torch.ones(1, 1, 1), torch.full((1, 2, 2), float("nan")), torch.tensor([[0]]))])


@pytest.mark.parametrize("pending", [1, 3, 5, 128])
def test_however_many_removals_wait_the_order_is_that_of_refits(
    monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    """Two consumers of the same units: one in two groups, one that reads columns of others as well."""
    monkeypatch.setattr(obs, "PENDING", pending)
    one, ones = problem(2, 2, 6, 2, 7)
    wide, seen = problem(1, 3, 9, 1, 8)
    problems = [(one, ones), (Consumer(wide.weight, wide.hessian, wide.units[:6], 2.0), seen)]
    order, errors = brute(problems, 6)
    found = rank([consumer for consumer, _ in problems], damping=1e-9)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.errors, errors, rtol=1e-3)


def test_many_units_at_once_and_one_after_another_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rounds of removals that were kept waiting, against each made by itself; inputs are left alone."""
    consumer, _ = problem(1, 5, 40, 3, 9)
    before = [tensor.clone() for tensor in (consumer.weight, consumer.hessian, consumer.units)]
    waited = rank([consumer])
    monkeypatch.setattr(obs, "PENDING", 1)
    found = rank([consumer])
    assert found.order.tolist() == waited.order.tolist()
    np.testing.assert_allclose(found.errors, waited.errors, rtol=1e-9)
    after = (consumer.weight, consumer.hessian, consumer.units)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
