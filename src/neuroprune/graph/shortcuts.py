"""Output shapes of the commonest operators on the meta device, where PyTorch's own way to them is long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


def _itself(operator: OpOverload, *arguments: Any) -> Tensor:
    result: Tensor = operator(*arguments)
    return result


def _at(values: Sequence[int], index: int) -> int:
    """One number for all dimensions, or one for each."""
    return values[index % len(values)]


def _batch_norm(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    nothing = torch.empty(0, device="meta")
    return torch.empty_like(x), nothing, nothing.clone()


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """[N, C, *space] -> [N, out, *space]: the formula of torch.nn.Conv2d's documentation."""
    fits = x.dim() == weight.dim() and x.shape[1] == weight.shape[1] * groups
    arguments = (x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    if transposed or not fits:  # the operator itself knows what to say about a misfit
        return _itself(torch.ops.aten.convolution.default, *arguments)
    space = [
        (size + 2 * padding[i % len(padding)] - dilation[i % len(dilation)] * (k - 1) - 1)
        // stride[i % len(stride)]
        + 1
        for i, (size, k) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True))
    ]
    if min(space, default=1) < 1 or x.dtype != weight.dtype:
        return _itself(torch.ops.aten.convolution.default, *arguments)
    return x.new_empty((x.shape[0], weight.shape[0], *space))


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    moments = x.new_empty((*x.shape[: x.dim() - len(shape)], *(1 for _ in shape)))
    return torch.empty_like(x), moments, moments.clone()


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return _itself(torch.ops.aten.mm.default, a, b)
    return a.new_empty((a.shape[0], b.shape[1]))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    if bias.shape[-1] not in (1, b.shape[1]):
        return _itself(torch.ops.aten.addmm.default, bias, a, b)
    return _mm(a, b)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[::2] != (b.shape[0], b.shape[1]) or a.dtype != b.dtype:
        return _itself(torch.ops.aten.bmm.default, a, b)
    return a.new_empty((a.shape[0], a.shape[1], b.shape[2]))


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _in_place(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _of_two(operator: OpOverload, in_place: bool) -> Callable[..., Tensor]:
    """Elementwise on two tensors of one floating type: anything else is left to the operator itself."""

    def shape(x: Tensor, y: Any, *rest: Any, **options: Any) -> Tensor:
        alike = isinstance(y, Tensor) and x.dtype == y.dtype and x.is_floating_point()
        if alike and x.shape == y.shape and x.stride() == y.stride():
            return x if in_place else torch.empty_like(x)
        return _itself(operator, x, y, *rest, **options)

    return shape


_aten = torch.ops.aten

SHORTCUTS: dict[OpOverload, Callable[..., Any]] = {
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.convolution.default: _convolution,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    # of one tensor, floating in and out (integers would come out of some of these as floats)
    **dict.fromkeys(
        (
            _aten.relu.default,
            _aten.gelu.default,
            _aten.silu.default,
            _aten.hardswish.default,
            _aten.hardtanh.default,
            _aten.hardsigmoid.default,
            _aten.leaky_relu.default,
            _aten.elu.default,
        ),
        _like,
    ),
    **dict.fromkeys(
        (
            _aten.relu_.default,
            _aten.gelu_.default,
            _aten.silu_.default,
            _aten.hardswish_.default,
            _aten.hardtanh_.default,
            _aten.hardsigmoid_.default,
            _aten.leaky_relu_.default,
            _aten.elu_.default,
            _aten.sigmoid_.default,
            _aten.tanh_.default,
        ),
        _in_place,
    ),
    **{op: _of_two(op, False) for op in (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)},
    **{
        op: _of_two(op, True)
        for op in (_aten.add_.Tensor, _aten.sub_.Tensor, _aten.mul_.Tensor, _aten.div_.Tensor)
    },
}
