"""Data movement: the operator itself, run on the labels, says where each label goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroprune.graph.labels import Factor, Factors
from neuroprune.graph.rules._base import OpCall, rule


@rule(
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze",
    "flatten", "slice", "select", "split", "split_with_sizes", "unbind", "flip", "repeat", "narrow",
    "diagonal", "pixel_shuffle", "pixel_unshuffle", "unsafe_split", "unsafe_chunk", "chunk",
    "native_channel_shuffle", "channel_shuffle", "swapaxes", "movedim", "repeat_interleave",
)  # fmt: skip
def movement(op: OpCall) -> list[Factors]:
    factors = op.factors("self")
    op.keep(*factors)
    outputs: list[Factors] = [() for _ in op.outputs]
    # Pixels cannot go: of channels that became pixels, all of one output channel go together.
    prefer = op.outputs[0].dim() - 3 if op.func.overloadpacket.__name__ == "pixel_shuffle" else None
    for factor in factors:
        for index, moved in enumerate(_run(op, factor.full(op.args["self"].shape))):
            outputs[index] += op.carried(moved, prefer)
    return outputs


@rule("roll")
def roll(op: OpCall) -> list[Factors]:
    """A shift by s is still a shift by s after a cut only if the s entries that wrap around all stay."""
    value, shifts = op.args["self"], op.args["shifts"]
    dims = op.args.get("dims") or []
    for factor in op.factors("self"):
        for shift, dim in zip(shifts, dims, strict=True):
            if dim % value.dim() in factor.dims:
                size = value.shape[dim]
                wrapped = factor.labels.narrow(dim, size - shift % size, shift % size)
                op.pin(wrapped, "wraps around when the dimension is rolled")
    return movement(op) if dims else [()]


@rule("index_select", "gather", "index")
def constant_index(op: OpCall) -> list[Factors]:
    """Indexing along dimensions that do not shrink; an index into labels would shift with the cut: pinned."""
    source, value = op.factors("self"), op.args["self"]
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    if op.func.overloadpacket.__name__ != "index_select":
        return [()]
    dim = op.args["dim"] % value.dim()
    kept = [f for f in source if dim not in f.dims]
    op.keep(*kept)
    return [tuple(kept)]


@rule("constant_pad_nd")
def pad(op: OpCall) -> list[Factors]:
    """Padded elements carry the label 0: they stay."""
    factors = op.factors("self")
    op.keep(*factors)
    shape = op.args["self"].shape
    return [tuple(g for f in factors for g in op.carried(_pad(f, f.full(shape), list(op.args["pad"]))))]


def _pad(factor: Factor, full: Tensor, widths: list[int]) -> Tensor:
    """Pad with 0 where the labels vary, with copies (a plain expand) where they do not."""
    labels, shape = factor.labels, list(full.shape)
    for i in range(0, len(widths), 2):
        dim, (before, after) = full.dim() - 1 - i // 2, widths[i : i + 2]
        shape[dim] += before + after
        if dim in factor.dims:
            flat = [0] * (2 * full.dim())
            flat[i : i + 2] = [before, after]
            labels = torch.nn.functional.pad(labels, flat)
    return labels.expand(shape)


@rule("cat", "concatenate")
def cat(op: OpCall) -> list[Factors]:
    """Along the joined dimension labels stand side by side; along the others they must agree."""
    tensors: list[Tensor] = [t for t in op.args["tensors"] if t.numel()]
    ndim = op.outputs[0].dim()
    dim = op.args.get("dim", 0) % ndim
    across = [[f for f in op.factors_of(t) if dim not in f.dims] for t in tensors]
    along = [[f for f in op.factors_of(t) if dim in f.dims] for t in tensors]
    shapes = [[1 if d == dim else s for d, s in enumerate(t.shape)] for t in tensors]
    out = op.meet([(tuple(fs), shape) for fs, shape in zip(across, shapes, strict=True)], ndim)
    if max(len(fs) for fs in along) > 1:
        return [out]  # several directions in one dimension: left unsettled, so pinned
    for fs in along:
        op.keep(*fs)
    parts = [
        fs[0].full(t.shape) if fs else torch.zeros((), dtype=torch.int64).expand(t.shape)
        for fs, t in zip(along, tensors, strict=True)
    ]
    return [out + op.carried(torch.cat(parts, dim))]


@rule("stack")
def stack(op: OpCall) -> list[Factors]:
    """A new dimension in front of ``dim``; the stacked tensors must agree in all others."""
    tensors: list[Tensor] = op.args["tensors"]
    ndim = op.outputs[0].dim()
    dim = op.args.get("dim", 0) % ndim
    met = op.meet([(op.factors_of(t), t.shape) for t in tensors], ndim - 1)
    return [tuple(Factor(f.labels.unsqueeze(dim), frozenset(d + (d >= dim) for d in f.dims)) for f in met)]


def _run(op: OpCall, labels: Tensor) -> list[Tensor]:
    """The operator on ``labels`` in place of ``self``; always a list."""
    if op.func.overloadpacket.__name__ in ("view", "_unsafe_view", "reshape", "flatten"):
        return [labels.reshape(op.outputs[0].shape)]  # expanded labels have other strides than the value
    args: dict[str, Any] = {**op.args, "self": labels}
    result = op.func(**args)
    return [result] if isinstance(result, Tensor) else list(result)
