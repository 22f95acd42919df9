"""Data movement: the operator itself, run on the labels, says where each label goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroprune.graph.labels import NO_LABELS, Labels, nothing
from neuroprune.graph.rules._base import OpCall, rule
from neuroprune.graph.rules.contraction import by_block
from neuroprune.graph.rules.passage import passed


@rule(
    "view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze",
    "select", "slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unbind", "flip",
    "rot90", "repeat", "repeat_interleave", "diagonal", "pixel_shuffle", "pixel_unshuffle",
)  # fmt: skip
def movement(op: OpCall) -> list[Labels]:
    if op.name == "slice" and op.args.get("step", 1) != 1:
        _tie_steps(op)
    if op.tensor("self") is None:
        return [NO_LABELS for _ in op.outputs]
    whole = passed(op)
    if whole is not None:
        return [whole for _ in op.outputs]
    return op.moved("self", lambda full: _run(op, full))


def _tie_steps(op: OpCall) -> None:
    """Every s-th entry is still the same entry after a cut only if runs of s entries go together."""
    step, vector = op.args["step"], op.peek("self", op.args.get("dim", 0))
    if vector is None:
        return
    start = op.args.get("start") or 0
    if step < 0 or start >= step:
        op.pin(vector, "is taken in steps from an odd place")
        return
    for offset in range(0, vector.size, step):
        run = vector[offset : offset + step]
        op.tie(run, run[:1], "is taken in steps")


@rule("unfold")
def unfold(op: OpCall) -> list[Labels]:
    """Windows of a fixed length: none of their places can go."""
    out = movement(op)
    op.pin(out[0].get(op.outputs[0].dim() - 1), "is a place in a window of fixed length")
    return out


@rule("native_channel_shuffle", "channel_shuffle")
def channel_shuffle(op: OpCall) -> list[Labels]:
    """Channels as groups x places, turned to places x groups; the number of groups is fixed."""
    labels, groups = dict(op.take_all("self")), int(op.args["groups"])
    if 1 in labels:
        parts = op.place(by_block(labels[1], groups))
        op.pin(parts.get(0), "the number of groups of a shuffle is fixed")
        places = parts.get(1)
        labels[1] = nothing(labels[1].size) if places is None else np.repeat(places, groups)
    return [labels]


@rule("as_strided")
def as_strided(op: OpCall) -> list[Labels]:
    """PyTorch's own pooling calls it on contiguous results; calls by the model's code are settled in sizes.py."""
    if not op.args["self"].is_contiguous() or op.args.get("storage_offset"):
        return [NO_LABELS]
    size, stride = op.args["size"], op.args["stride"]
    return op.moved("self", lambda full: [full.contiguous().as_strided(size, stride)])


@rule("roll")
def roll(op: OpCall) -> list[Labels]:
    """A shift by s is still a shift by s after a cut only if the s entries that wrap around all stay."""
    value, shifts = op.args["self"], op.args["shifts"]
    dims = op.args.get("dims") or []
    for shift, dim in zip(shifts, dims, strict=False):
        vector = op.peek(value, dim)
        if vector is not None:
            size = value.shape[dim]
            op.pin(vector[size - shift % size :], "wraps around when the dimension is rolled")
    return movement(op) if dims else [NO_LABELS]


@rule("index_select")
def index_select(op: OpCall) -> list[Labels]:
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    value = op.args["self"]
    return [op.take_all(value, but=[op.args["dim"] % max(value.dim(), 1)])]


@rule("index", "_unsafe_index")
def index(op: OpCall) -> list[Labels]:
    """Advanced indexing: dimensions that are not indexed pass; indices themselves must not be labelled."""
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    value, indices = op.args["self"], op.args["indices"]
    if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return [_behind_mask(op, value, indices)]
    indexed = [dim for dim, i in enumerate(indices) if i is not None]
    nought = [None if i is None else torch.zeros(tuple(i.shape), dtype=torch.int64) for i in indices]
    passing = op.take_all(value, but=indexed)
    return op.moved(value, lambda full: [torch.ops.aten.index(full, nought)], passing)


def _behind_mask(op: OpCall, value: Tensor, indices: list[Tensor | None]) -> Labels:
    """A leading boolean mask turns its dimensions into one; what stands behind them passes."""
    masks = [i for i in indices if i is not None]
    if len(masks) != 1 or indices[0] is None or op.labels_of(masks[0]):
        return NO_LABELS
    covered = masks[0].dim()
    behind = op.take_all(value, but=range(covered))
    return {dim - covered + 1: vector for dim, vector in behind.items()}


@rule("index_fill", "index_copy", "index_add", "index_reduce")
def index_write(op: OpCall) -> list[Labels]:
    """Rows named by an index are written; that dimension must stay, along the others source and target agree."""
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    value = op.args["self"]
    dim = op.args["dim"] % max(value.dim(), 1)
    sides = [(op.take_all(value, but=[dim]), _but(value, dim))]
    source = op.tensor("source")
    if source is not None:
        sides.append((op.take_all(source, but=[dim]), _but(source, dim)))
    return [op.meet(sides, value.dim())]


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(op: OpCall) -> list[Labels]:
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    value, where, source = op.args["self"], op.args["index"], op.tensor("src")
    dim = op.args["dim"] % max(value.dim(), 1)
    tensors = [t for t in (value, where, source) if t is not None]
    return [op.meet([(op.take_all(t, but=[dim]), _but(t, dim)) for t in tensors], value.dim())]


def _but(tensor: Tensor, dim: int) -> tuple[int, ...]:
    """The shape with size 1 in one dimension."""
    return tuple(1 if d == dim else n for d, n in enumerate(tensor.shape))


@rule("gather")
def gather(op: OpCall) -> list[Labels]:
    """input, index and output have one rank; dimensions other than the gathered one must be equally long."""
    op.complaint = "indices into this dimension would point elsewhere after a cut"
    value, where = op.args["self"], op.args["index"]
    dim = op.args["dim"] % max(value.dim(), 1)
    shape = op.extent(where)  # an index repeated for every channel can be repeated less often
    sides = [
        (op.take_all(value, but=[dim]), _but(value, dim)),
        (op.take_all(where, but=[dim]), (*shape[:dim], 1, *shape[dim + 1 :])),
    ]
    return [op.meet(sides, value.dim())]


@rule("constant_pad_nd")
def pad(op: OpCall) -> list[Labels]:
    """Padded elements carry the label 0: they stay."""
    value, out = op.args["self"], {}
    widths = [*op.args["pad"], *([0] * (2 * value.dim() - len(op.args["pad"])))]
    for dim, vector in op.take_all(value).items():
        before, after = widths[2 * (value.dim() - 1 - dim) :][:2]
        kept = vector[max(-before, 0) : vector.size - max(-after, 0)]  # a negative width takes entries away
        op.pin(vector[: max(-before, 0)], "is cropped")
        op.pin(vector[vector.size - max(-after, 0) :], "is cropped")
        out[dim] = np.pad(kept, (max(before, 0), max(after, 0)))
    return [out]


@rule("cat")
def cat(op: OpCall) -> list[Labels]:
    """Along the joined dimension labels stand side by side; along the others they must agree."""
    tensors: list[Tensor] = [t for t in op.args["tensors"] if t.numel()]
    ndim = op.outputs[0].dim()
    dim = op.args.get("dim", 0) % ndim
    shapes = [[1 if d == dim else s for d, s in enumerate(t.shape)] for t in tensors]
    across = [(op.take_all(t, but=[dim]), shape) for t, shape in zip(tensors, shapes, strict=True)]
    out = dict(op.meet(across, ndim))
    along = [op.take(t, dim) for t in tensors]
    if any(vector is not None for vector in along):
        out[dim] = np.concatenate(
            [nothing(t.shape[dim]) if v is None else v for v, t in zip(along, tensors, strict=True)]
        )
    return [out]


@rule("stack")
def stack(op: OpCall) -> list[Labels]:
    """A new dimension in front of ``dim``; the stacked tensors must agree in all others."""
    tensors: list[Tensor] = op.args["tensors"]
    ndim = op.outputs[0].dim()
    dim = op.args.get("dim", 0) % ndim
    met = op.meet([(op.take_all(t), t.shape) for t in tensors], ndim - 1)
    return [{d + (d >= dim): vector for d, vector in met.items()}]


@rule("im2col")
def im2col(op: OpCall) -> list[Labels]:
    """[N, C, H, W] -> [N, C * positions of the kernel, windows]."""
    op.complaint = "is mixed with its neighbours by the operator"
    channels = op.take("self", op.args["self"].dim() - 3)
    positions = int(np.prod(op.args["kernel_size"]))
    where = op.outputs[0].dim() - 2
    return [{where: np.repeat(channels, positions)} if channels is not None else NO_LABELS]


@rule("col2im")
def col2im(op: OpCall) -> list[Labels]:
    """[N, C * positions of the kernel, windows] -> [N, C, H, W]: the positions of a channel go together."""
    op.complaint = "is mixed with its neighbours by the operator"
    columns = op.take("self", op.args["self"].dim() - 2)
    if columns is None:
        return [NO_LABELS]
    positions = int(np.prod(op.args["kernel_size"]))
    by_channel = columns.reshape(-1, positions)
    op.tie(by_channel, by_channel[:, :1], "is a position of a folded window")
    return [{op.outputs[0].dim() - 3: by_channel[:, 0].copy()}]


@rule("view_as_complex", "view_as_real", "_conj", "_fft_r2c", "_fft_c2r", "_fft_c2c")
def complex_numbers(op: OpCall) -> list[Labels]:
    """The pair (real, imaginary) never shrinks, nor do dimensions that are transformed; all others pass."""
    op.complaint = "complex pairs and transformed dimensions cannot shrink"
    fixed = {op.args["self"].dim() - 1} if op.name == "view_as_complex" else set(op.args.get("dim") or ())
    return [op.take_all("self", but=[d % op.args["self"].dim() for d in fixed])]


_RESHAPES = ("view", "_unsafe_view", "_reshape_alias")


def _run(op: OpCall, labels: Tensor) -> list[Tensor]:
    """The operator on ``labels`` in place of ``self``; always a list."""
    if op.name in _RESHAPES:
        return [labels.reshape(op.outputs[0].shape)]  # expanded labels have other strides than the value
    assert op.func is not None
    args: dict[str, Any] = {**op.args, "self": labels}
    result = op.func(**args)
    return [result] if isinstance(result, Tensor) else list(result)
