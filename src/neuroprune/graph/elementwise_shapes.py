"""Results of elementwise operators on the meta device: floating point in, the same out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

_META = torch.device("meta")
_NUMBERS = frozenset((int, float, bool, type(None)))


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Contiguous."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=_META)


def in_format_of(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Channels last where x is stored so, contiguous everywhere else."""
    made = empty(shape, x)
    last = len(shape) == x.dim() == 4 and not x.is_contiguous() and _channels_last(x)
    return made.to(memory_format=torch.channels_last) if last else made


def _channels_last(x: Tensor) -> bool:
    """As PyTorch's ``suggest_memory_format`` sees it: also parts of such a tensor are."""
    least = 0
    for dim in (1, 3, 2, 0):
        step, size = x.stride(dim), x.shape[dim]
        if step < max(least, 1) or (dim == 0 and least == x.stride(1)):
            return False
        least = step * size
    return True


def alike(x: Tensor) -> Tensor:
    """``torch.empty_like``, which takes twenty times as long."""
    if not x.is_contiguous() and not _is_dense(x):
        return torch.empty_like(x)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=_META)


def _is_dense(x: Tensor) -> bool:
    """In some order of its dimensions it is contiguous."""
    expected = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if step != expected:
                return False
            expected *= size
    return True


def _broadcast(shapes: Sequence[Sequence[int]]) -> list[int] | None:
    """None where they do not fit."""
    out = [1] * max(map(len, shapes))
    for shape in shapes:
        for i in range(-len(shape), 0):
            if shape[i] != 1 and out[i] not in (1, shape[i]):
                return None
            if out[i] == 1:
                out[i] = shape[i]
    return out


def _combined(tensors: Sequence[Tensor]) -> Tensor | None:
    """What an elementwise operator makes of these; None where that takes more thought."""
    x = tensors[0]
    if all(t.shape == x.shape and t.stride() == x.stride() for t in tensors[1:]):
        return alike(x)
    if not all(t.is_contiguous() for t in tensors):
        return None
    shape = _broadcast([t.shape for t in tensors])
    return None if shape is None else empty(shape, x)


def _floating(x: Any, others: Sequence[Any]) -> list[Tensor] | None:
    """The tensors among the operands, where all are of one floating type and the rest are plain numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    tensors = [x]
    for other in others:
        if isinstance(other, Tensor):
            if other.dtype != x.dtype:
                return None
            tensors.append(other)
        elif type(other) not in _NUMBERS:
            return None
    return tensors


def _pointwise(operator: OpOverload) -> Callable[..., Tensor]:
    def shape(x: Any, *others: Any, **options: Any) -> Tensor:
        tensors = _floating(x, others)
        made = None if tensors is None else _combined(tensors)
        if made is None:
            made = operator(x, *others, **options)
        return made

    return shape


def _in_place(operator: OpOverload) -> Callable[..., Tensor]:
    def shape(x: Any, *others: Any, **options: Any) -> Tensor:
        tensors = _floating(x, others)
        if tensors is None or _broadcast([t.shape for t in tensors]) != list(x.shape):
            return operator(x, *others, **options)  # type: ignore[no-any-return]
        return tensors[0]

    return shape


def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    shape = _broadcast([x.shape, mask.shape]) if x.is_floating_point() and type(value) in _NUMBERS else None
    return torch.ops.aten.masked_fill.Scalar(x, mask, value) if shape is None else empty(shape, x)


def _where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    made = _combined([x, y, condition]) if x.dtype == y.dtype and condition.dtype == torch.bool else None
    return torch.ops.aten.where.self(condition, x, y) if made is None else made


_aten = torch.ops.aten
#: floating point in and out (integers would come out of some of these as floats)
_OF_ONE = (
    _aten.relu, _aten.gelu, _aten.silu, _aten.hardswish, _aten.hardtanh, _aten.hardsigmoid, _aten.leaky_relu,
    _aten.elu, _aten.sigmoid, _aten.tanh, _aten.mish, _aten.exp, _aten.sqrt, _aten.rsqrt, _aten.neg, _aten.abs,
    _aten.clamp, _aten.clamp_min, _aten.clamp_max, _aten.softplus,
)  # fmt: skip
_OF_SEVERAL = (_aten.add, _aten.sub, _aten.mul, _aten.div)
_WRITING = (
    _aten.relu_, _aten.gelu_, _aten.silu_, _aten.hardswish_, _aten.hardtanh_, _aten.hardsigmoid_,
    _aten.leaky_relu_, _aten.elu_, _aten.sigmoid_, _aten.tanh_, _aten.mish_, _aten.clamp_, _aten.clamp_min_,
)  # fmt: skip

ELEMENTWISE: dict[OpOverload, Callable[..., Tensor]] = {
    **{packet.default: _pointwise(packet.default) for packet in _OF_ONE},
    **{packet.Tensor: _pointwise(packet.Tensor) for packet in _OF_SEVERAL},
    **{packet.default: _in_place(packet.default) for packet in _WRITING},
    **{packet.Tensor: _in_place(packet.Tensor) for packet in (_aten.add_, _aten.sub_, _aten.mul_, _aten.div_)},
    _aten.pow.Tensor_Scalar: _pointwise(_aten.pow.Tensor_Scalar),
    _aten.addcmul.default: _pointwise(_aten.addcmul.default),
    _aten.masked_fill.Scalar: _masked_fill,
    _aten.where.self: _where,
}
