"""A layer and its batch norm as one map: what is read is what they compute, what is written is too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neuroprune.pruning.design import inputs_of
from neuroprune.recover.affine import Affine
from neuroprune.recover.moments import Moments

CASES = [(kind, norm, bias) for kind in ("conv", "grouped", "linear") for norm in (0, 1) for bias in (0, 1)]


def build(kind: str, norm: int, bias: int) -> tuple[Affine, Tensor]:
    layer: Any = {
        "conv": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bool(bias)),
        "grouped": lambda: nn.Conv2d(4, 4, 2, groups=2, bias=bool(bias)),
        "linear": lambda: nn.Linear(3, 4, bias=bool(bias)),
    }[kind]()
    bn: Any = {"linear": nn.BatchNorm1d}.get(kind, nn.BatchNorm2d)(4) if norm else None
    if bn is not None:
        with torch.no_grad():
            bn.weight.copy_(torch.tensor([1.5, -0.7, 0.3, 2.0]))
            bn.bias.copy_(torch.randn(4))
            bn.running_mean.copy_(torch.randn(4))
            bn.running_var.copy_(torch.rand(4) + 0.2)
        bn.eval()
    shape = (50, 3) if kind == "linear" else (6, 4 if kind == "grouped" else 3, 5, 5)
    return Affine(layer.eval(), bn), torch.randn(shape) + 0.5


def value(affine: Affine, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = affine.layer(x)
        return y if affine.norm is None else affine.norm(y)


def moments_of(affine: Affine, x: Tensor) -> Moments:
    rows = inputs_of(affine.layer, x, None)
    moments = Moments.empty(rows.shape[0], rows.shape[1], 4)
    moments.add(rows, torch.zeros(4, rows.shape[2]))
    return moments


def by_matrix(affine: Affine, weight: Tensor, x: Tensor) -> Tensor:
    """[outputs, rows]"""
    rows = inputs_of(affine.layer, x, None).double()
    return (weight[:, :, :-1] @ rows + weight[:, :, -1:]).flatten(0, 1)


def flat(y: Tensor) -> Tensor:
    return y.transpose(0, 1).flatten(1).double()


@pytest.mark.parametrize(("kind", "norm", "bias"), CASES)
def test_what_is_read_is_the_function(kind: str, norm: int, bias: int) -> None:
    affine, x = build(kind, norm, bias)
    torch.testing.assert_close(by_matrix(affine, affine.weight(), x), flat(value(affine, x)), rtol=1e-4, atol=1e-5)
    assert affine.can_have_bias() == bool(norm or bias)


@pytest.mark.parametrize(("kind", "norm", "bias"), CASES)
def test_writing_what_was_read_changes_nothing(kind: str, norm: int, bias: int) -> None:
    affine, x = build(kind, norm, bias)
    before = value(affine, x)
    affine.write(affine.weight(), moments_of(affine, x))
    torch.testing.assert_close(value(affine, x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "norm", "bias"), CASES)
def test_what_is_written_is_the_function_and_the_statistics_are_true(kind: str, norm: int, bias: int) -> None:
    affine, x = build(kind, norm, bias)
    weight = torch.randn_like(affine.weight()) * 3
    if not affine.can_have_bias():
        weight[:, :, -1] = 0
    affine.write(weight, moments_of(affine, x))
    torch.testing.assert_close(flat(value(affine, x)), by_matrix(affine, weight, x), rtol=1e-3, atol=1e-4)
    if affine.norm is None:
        return
    inside = flat(affine.layer(x).detach())
    torch.testing.assert_close(affine.norm.running_mean.double(), inside.mean(1), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    torch.testing.assert_close(affine.norm.running_var.double(), inside.var(1, correction=0), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    evaluated = value(affine, x)
    affine.norm.momentum = 0.0
    affine.norm.train()
    torch.testing.assert_close(value(affine, x), evaluated, rtol=1e-4, atol=1e-4)


@given(st.lists(st.sampled_from([0.0, 1e-6, 1.0, 1e4]), min_size=4, max_size=4), st.booleans())
def test_rows_of_any_size(sizes: list[float], had: bool) -> None:
    """Zero rows stay zero (whatever bias they carry); tiny and huge ones are what was written."""
    torch.manual_seed(0)
    affine, x = build("conv", 1, 1)
    if not had:
        with torch.no_grad():
            affine.layer.weight[1] = 0  # type: ignore[index]
    weight = torch.randn_like(affine.weight()) * torch.tensor(sizes, dtype=torch.float64).view(1, 4, 1)
    affine.write(weight, moments_of(affine, x))
    found, wanted = flat(value(affine, x)), by_matrix(affine, weight, x)
    for tensor in [*affine.layer.state_dict().values(), *affine.norm.state_dict().values()]:  # type: ignore[union-attr]
        assert bool(tensor.isfinite().all())
    for row, size in enumerate(sizes):
        torch.testing.assert_close(found[row], wanted[row], rtol=1e-3, atol=1e-4 * size)
        assert size or not bool(affine.layer.weight[row].any())  # type: ignore[index]


def test_a_constant_row_keeps_its_constant() -> None:
    affine, x = build("conv", 1, 0)
    weight = torch.zeros_like(affine.weight())
    weight[0, :, -1] = torch.tensor([0.0, 1.0, -2.0, 3.0])
    affine.write(weight, moments_of(affine, x))
    torch.testing.assert_close(flat(value(affine, x)), by_matrix(affine, weight, x))


def test_inputs_that_never_vary() -> None:
    """The variance is zero: the map still holds on these inputs, and stays finite on others."""
    affine, x = build("conv", 1, 1)
    x = torch.ones_like(x)
    weight = torch.randn_like(affine.weight())
    affine.write(weight, moments_of(affine, x))
    torch.testing.assert_close(flat(value(affine, x)), by_matrix(affine, weight, x), rtol=1e-3, atol=1e-3)
    other = torch.randn_like(x)
    torch.testing.assert_close(flat(value(affine, other)), by_matrix(affine, weight, other), rtol=1e-2, atol=1e-2)
