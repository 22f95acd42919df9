"""Output shapes of the commonest operators on the meta device, where PyTorch's own way to them is long.

Whatever is not quite the common case (other types, odd memory formats, sizes that do not fit) is left to the
operator itself. Layouts are those of the operators on the CPU: a later ``view`` of the model relies on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.elementwise_shapes import ELEMENTWISE, alike, empty, in_format_of

Shortcut = Callable[..., Any]
_aten = torch.ops.aten


def _at(values: Sequence[int], index: int) -> int:
    """One number for all dimensions, or one for each."""
    return values[index % len(values)]


def _batch_norm(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    return in_format_of(x, x.shape), empty((0,), x), empty((0,), x)


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
    fits = x.dim() == weight.dim() and x.shape[1] == weight.shape[1] * groups and x.dtype == weight.dtype
    space = [
        (size + 2 * _at(padding, i) - _at(dilation, i) * (k - 1) - 1) // _at(stride, i) + 1
        for i, (size, k) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=False))
    ]
    if transposed or not fits or min(space, default=1) < 1:  # the operator itself knows what to say about a misfit
        arguments = (x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        misfit: Tensor = _aten.convolution.default(*arguments)
        return misfit
    return in_format_of(x, (x.shape[0], weight.shape[0], *space))


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    moments = (*x.shape[: x.dim() - len(shape)], *(1 for _ in shape))
    return empty(x.shape, x), empty(moments, x), empty(moments, x)


def _group_norm(
    x: Tensor, weight: Any, bias: Any, n: int, channels: int, space: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    if not x.is_contiguous():
        itself: tuple[Tensor, Tensor, Tensor] = _aten.native_group_norm.default(
            x, weight, bias, n, channels, space, groups, eps
        )
        return itself
    return alike(x), empty((n, groups), x), empty((n, groups), x)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        misfit: Tensor = _aten.mm.default(a, b)
        return misfit
    return empty((a.shape[0], b.shape[1]), a)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    if bias.shape[-1] not in (1, b.shape[1]):
        misfit: Tensor = _aten.addmm.default(bias, a, b)
        return misfit
    return _mm(a, b)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[::2] != (b.shape[0], b.shape[1]) or a.dtype != b.dtype:
        misfit: Tensor = _aten.bmm.default(a, b)
        return misfit
    return empty((a.shape[0], a.shape[1], b.shape[2]), a)


def _usual(x: Tensor) -> bool:
    return x.is_contiguous() and x.is_floating_point()


def _reduced(operator: OpOverload, leading: int) -> Shortcut:
    """Over some dimensions or (none given) all; ``leading``: arguments between the tensor and the dimensions."""

    def shape(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        given = arguments[leading:]
        dims, keep = given[0] if given else None, given[1] if len(given) > 1 else False
        if options or not _usual(x):
            itself: Tensor = operator(x, *arguments, **options)
            return itself
        gone = {d % x.dim() for d in dims} if dims else set(range(x.dim()))
        sizes = [1 if d in gone else size for d, size in enumerate(x.shape) if keep or d not in gone]
        return empty(sizes, x)

    return shape


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first, at = tensors[0], dim % max(tensors[0].dim(), 1)
    shapes = [(*t.shape[:at], *t.shape[at + 1 :]) for t in tensors]
    alike_ = all(t.is_contiguous() and t.dtype == first.dtype and t.dim() == first.dim() for t in tensors)
    if not alike_ or not first.dim() or any(shape != shapes[0] for shape in shapes):
        itself: Tensor = _aten.cat.default(tensors, dim)
        return itself
    return empty((*first.shape[:at], sum(t.shape[at] for t in tensors), *first.shape[at + 1 :]), first)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first = tensors[0]
    same = all(t.is_contiguous() and t.dtype == first.dtype and t.shape == first.shape for t in tensors)
    if not same:
        itself: Tensor = _aten.stack.default(tensors, dim)
        return itself
    at = dim % (first.dim() + 1)
    return empty((*first.shape[:at], len(tensors), *first.shape[at:]), first)


def _resized(operator: OpOverload) -> Shortcut:
    def shape(x: Tensor, size: Sequence[int], *arguments: Any, **options: Any) -> Tensor:
        if not _usual(x) or min(size) < 1 or x.dim() != len(size) + 2:
            itself: Tensor = operator(x, size, *arguments, **options)
            return itself
        return empty((*x.shape[:2], *size), x)

    return shape


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    up: bool,
) -> list[int] | None:
    """[..., *space] after pooling; None where it does not fit."""
    behind = x.dim() - 2
    if not _usual(x) or behind not in (1, 2):
        return None
    space = []
    for i, size in enumerate(x.shape[behind:]):
        step, margin = _at(stride or kernel, i), _at(padding, i)
        free = size + 2 * margin - _at(dilation, i) * (_at(kernel, i) - 1) - 1
        count = -(-free // step) + 1 if up else free // step + 1
        if up and (count - 1) * step >= size + margin:  # the last window must start inside
            count -= 1
        if free < 0 or 2 * margin > _at(kernel, i):
            return None
        space.append(count)
    return [*x.shape[:behind], *space]


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    up: bool = False,
) -> tuple[Tensor, Tensor]:
    shape = _pooled(x, kernel, stride, padding, dilation, up)
    if shape is None:
        operator = _aten.max_pool2d_with_indices.default
        itself: tuple[Tensor, Tensor] = operator(x, kernel, stride, padding, dilation, up)
        return itself
    return empty(shape, x), empty(shape, x, torch.int64)


def _mean_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    up: bool = False,
    *rest: Any,
) -> Tensor:
    shape = _pooled(x, kernel, stride, padding, (1,), up)
    if shape is None:
        itself: Tensor = _aten.avg_pool2d.default(x, kernel, stride, padding, up, *rest)
        return itself
    return empty(shape, x)


def _looked_up(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """One table of numbers into the first dimension: x[index]."""
    index = indices[0]
    usual = len(indices) == 1 and index is not None and index.dtype == torch.int64 and index.is_contiguous()
    if index is None or not usual or not x.is_contiguous() or not x.dim():
        itself: Tensor = _aten.index.Tensor(x, indices)
        return itself
    return empty((*index.shape, *x.shape[1:]), x)


SHORTCUTS: dict[OpOverload, Shortcut] = {
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.convolution.default: _convolution,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_group_norm.default: _group_norm,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten.cat.default: _cat,
    _aten.stack.default: _stack,
    _aten.roll.default: lambda x, *_, **__: in_format_of(x, x.shape),
    _aten.index.Tensor: _looked_up,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.avg_pool2d.default: _mean_pool,
    **{
        op: _reduced(op, 0)
        for op in (_aten.mean.dim, _aten.sum.dim_IntList, _aten.amax.default, _aten.amin.default)
    },
    _aten.linalg_vector_norm.default: _reduced(_aten.linalg_vector_norm.default, 1),
    **{
        op: _resized(op)
        for op in (
            _aten.upsample_nearest1d.default,
            _aten.upsample_nearest2d.default,
            _aten.upsample_nearest3d.default,
            _aten.upsample_linear1d.default,
            _aten.upsample_bilinear2d.default,
            _aten.upsample_trilinear3d.default,
            _aten.upsample_bicubic2d.default,
            _aten._upsample_nearest_exact2d.default,
            _aten._upsample_bilinear2d_aa.default,
            _aten._upsample_bicubic2d_aa.default,
        )
    },
    **ELEMENTWISE,
}
