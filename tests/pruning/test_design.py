"""A layer's matrix times what meets it is the layer's own output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neuroprune.pruning.design import bias_of, inputs_of, is_affine, matrix_of, outputs_of, positions_of

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


#: torch says so of even kernels padded to the same size; the result is right
COPY = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def check(layer: Any, x: Tensor, share: float) -> None:
    layer, x = layer.double(), x.double()
    with torch.no_grad():
        y = layer(x)
        positions = positions_of(layer, y, share, torch.Generator().manual_seed(3))
        rows = inputs_of(layer, x, positions)
        found = (matrix_of(layer) @ rows).flatten(0, 1)
        bias = bias_of(layer)
        found = found if bias is None else found + bias[:, None]
    torch.testing.assert_close(found, outputs_of(layer, y, positions), rtol=1e-10, atol=1e-10)


@COPY
@given(
    dims=st.integers(1, 3),
    sizes=st.lists(st.integers(5, 7), min_size=3, max_size=3),
    kernel=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    stride=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    padding=st.one_of(st.just("same"), st.just("valid"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    dilation=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    groups=st.sampled_from([(1, 3, 2), (2, 4, 6), (3, 3, 6), (4, 4, 4)]),
    bias=st.booleans(),
    share=st.sampled_from([0.01, 0.3, 1.0]),
)
def test_any_convolution(
    dims: int,
    sizes: list[int],
    kernel: list[int],
    stride: list[int],
    padding: Any,
    mode: str,
    dilation: list[int],
    groups: tuple[int, int, int],
    bias: bool,
    share: float,
) -> None:
    torch.manual_seed(0)
    steps = [1] * dims if padding == "same" else stride[:dims]
    pad = padding if isinstance(padding, str) else tuple(padding[:dims])
    count, inside, outside = groups
    layer = CONVS[dims](
        inside, outside, tuple(kernel[:dims]), tuple(steps), pad, tuple(dilation[:dims]), count, bias, mode
    )
    check(layer, torch.randn(2, inside, *sizes[:dims]), share)


@COPY
def test_an_even_kernel_padded_to_the_same_size_is_asymmetric() -> None:
    check(nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(1, 3)), torch.randn(2, 2, 7, 9), 0.5)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_linear_layers_with_any_dimensions(shape: tuple[int, ...], share: float) -> None:
    check(nn.Linear(5, 3), torch.randn(shape), share)


def test_one_written_out() -> None:
    """Two rows, one channel at two kernel positions, and the padding's zero."""
    layer = nn.Conv1d(1, 1, 2, padding=1, bias=False)
    x = torch.tensor([[[1.0, 2.0]]])
    assert inputs_of(layer, x, None).tolist() == [[[0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]]
    assert inputs_of(layer, x, torch.tensor([2])).tolist() == [[[2.0], [0.0]]]


def test_positions_are_a_sorted_share_and_the_same_for_the_same_seed() -> None:
    layer, output = nn.Conv2d(1, 2, 1), torch.zeros(3, 2, 5, 6)
    first, again = (positions_of(layer, output, 0.5, torch.Generator().manual_seed(7)) for _ in range(2))
    other = positions_of(layer, output, 0.5, torch.Generator().manual_seed(8))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.tolist() == sorted(set(first.tolist()))
    assert len(first) == 15
    assert int(first.max()) < 30
    assert positions_of(layer, output, 1.0, torch.Generator()) is None
    assert positions_of(layer, output, 1e-9, torch.Generator().manual_seed(0)).shape == (1,)  # type: ignore[union-attr]


class Standardised(nn.Conv2d):
    """Computes with other weights than it holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class SamePadded(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(nn.functional.pad(x, (0, 1, 0, 1)), weight, bias)


def test_what_is_no_matrix_of_ours() -> None:
    assert is_affine(nn.Linear(2, 2))
    assert is_affine(nn.Conv1d(2, 2, 1))
    assert not is_affine(nn.ConvTranspose2d(2, 2, 1))
    assert is_affine(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    assert not is_affine(nn.BatchNorm1d(2))
    assert not is_affine(Standardised(2, 2, 1))  # its output is not its weight times its input
    assert not is_affine(SamePadded(2, 2, 3))
