"""Operators that sum over a dimension: convolution, matrix products, embedding.

A label on the summed dimension is tied to its partner in the other operand and consumed there; the other
dimensions pass to the output.
"""

from __future__ import annotations

import numpy as np

from neuroprune.graph.labels import NO_LABELS, Labels, Spread, Vector, nothing
from neuroprune.graph.rules._base import OpCall, rule


def contract(op: OpCall, a: str, a_dim: int, b: str, b_dim: int) -> None:
    """Tie and consume the labels of dimension ``a_dim`` of a and ``b_dim`` of b, which are summed together.

    Where only one side can shrink nothing is taken, so the framework pins it.
    """
    if op.peek(a, a_dim) is None or op.peek(b, b_dim) is None:
        op.complaint = "is summed against a dimension that cannot shrink"
        return
    left, right = op.take(a, a_dim), op.take(b, b_dim)
    assert left is not None
    assert right is not None
    op.tie(left, right, "is summed against a dimension that cannot shrink")
    op.consume(left, right)


def add_bias(op: OpCall, bias: str, product: Labels) -> Labels:
    """The broadcast addition of a bias argument to a product that carries ``product``."""
    value = op.tensor(bias)
    if value is None:
        return product
    shape = op.outputs[0].shape
    return op.meet([(product, shape), (op.take_all(value), value.shape)], len(shape))


def named(**vectors: Vector | None) -> Labels:
    """Labels from ``d0=..., d1=...``, without those that are absent."""
    return {int(key[1:]): vector for key, vector in vectors.items() if vector is not None}


@rule("mm", "addmm")
def matrix_product(op: OpCall) -> list[Labels]:
    left, right = ("mat1", "mat2") if "mat1" in op.args else ("self", "mat2")
    contract(op, left, 1, right, 0)
    out = named(d0=op.take(left, 0), d1=op.take(right, 1))
    return [add_bias(op, "self", out) if left == "mat1" else out]


@rule("bmm", "baddbmm")
def batched_product(op: OpCall) -> list[Labels]:
    """Products of one activation with another: their common batch dimension may be labelled (heads)."""
    left, right = ("batch1", "batch2") if "batch1" in op.args else ("self", "mat2")
    contract(op, left, 2, right, 1)
    out = dict(named(d1=op.take(left, 1), d2=op.take(right, 2)))
    sides = [(named(d0=op.take(side, 0)), (op.args[side].shape[0], 1, 1)) for side in (left, right)]
    batch = op.meet(sides, 3)
    for vector in batch.values():
        op.records.kinds.append((vector, "head"))
    out |= batch
    return [add_bias(op, "self", out) if left == "batch1" else out]


@rule("mv", "dot", "vdot")
def vector_product(op: OpCall) -> list[Labels]:
    other = "vec" if "vec" in op.args else "tensor" if "tensor" in op.args else "other"
    last = op.args["self"].dim() - 1
    contract(op, "self", last, other, 0)
    return [named(d0=op.take("self", 0)) if last else NO_LABELS]


@rule("embedding", "_embedding_bag_forward_only", "_embedding_bag")
def embedding(op: OpCall) -> list[Labels]:
    op.complaint = "rows are looked up by number, so none can be removed"
    width = op.take("weight", 1)
    out = named(**{f"d{op.outputs[0].dim() - 1}": width})
    return [out, *(NO_LABELS for _ in op.outputs[1:])]


@rule("convolution", "_convolution")
def convolution(op: OpCall) -> list[Labels]:
    """weight: [out, in / groups, *kernel], or [in, out / groups, *kernel] when transposed.

    Channels of a grouped convolution are a product of group and place within the group: whole groups can go,
    and the same place in every group.
    """
    weight = op.args["weight"]
    for dim in range(2, weight.dim()):
        op.pin(op.take(weight, dim), "positions of a kernel are no channels", quiet=True)
    groups, transposed = op.args["groups"], op.args["transposed"]
    if groups == 1:
        contract(op, "input", 1, weight, 0 if transposed else 1)
        channels = op.take(weight, 1 if transposed else 0)
    else:
        channels = _grouped(op, groups, transposed)
    return [{**_untouched(op), **add_channel_bias(op, channels)}]


def _untouched(op: OpCall) -> Labels:
    """Dimensions of space in which the kernel has one position and moves by one: they pass."""
    kernel = op.args["weight"].shape[2:]
    stride, padding = op.args["stride"], op.args["padding"]
    out: dict[int, Vector] = {}
    for i, size in enumerate(kernel):
        if size == 1 and stride[i % len(stride)] == 1 and padding[i % len(padding)] == 0:
            vector = op.take("input", i + 2)
            out |= {} if vector is None else {i + 2: vector}
    return out


def add_channel_bias(op: OpCall, channels: Vector | None) -> Labels:
    bias = op.take("bias", 0)
    if bias is not None and channels is not None:
        op.tie(bias, channels)
    elif bias is not None or (
        channels is not None and op.tensor("bias") is not None and op.args["bias"].numel() > 1
    ):
        op.pin(bias if bias is not None else channels, "the convolution's channels cannot shrink")
    return named(d1=channels)


def _grouped(op: OpCall, groups: int, transposed: bool) -> Vector | None:
    """Output channels of a grouped convolution; ties inputs, rows and columns of the weight to their groups."""
    x, rows = op.take("input", 1), op.take("weight", 0)
    if x is None or rows is None:
        for vector in (x, rows):
            op.pin(vector, "is convolved in groups with channels that cannot shrink")
        return None
    group, inner = _factors(op, x, groups)
    row_group, row_inner = _factors(op, rows, groups)
    op.tie(group, row_group, "shares a convolution group")
    op.counted["groups"] = group
    if x.size > groups:  # depthwise: the group is the channel
        op.records.kinds.append((group, "conv_group"))
    if transposed:  # rows are the inputs, columns the outputs of one group
        if inner is not None and row_inner is not None:
            op.tie(inner, row_inner)
            op.consume(inner)
        columns = op.take("weight", 1)
        return _product(op, group, columns, op.args["weight"].shape[1])
    columns = op.take("weight", 1)
    if inner is not None and columns is not None:
        op.tie(inner, columns, "is summed against a dimension that cannot shrink")
        op.consume(inner)
    return rows


def _factors(op: OpCall, vector: Vector, groups: int) -> tuple[Vector, Vector | None]:
    """(labels of the groups, labels of the places within a group) of channels that stand group by group."""
    parts = op.place(by_block(vector, groups))
    group, inner = parts.get(0), parts.get(1)
    if group is None:  # all groups bear the same labels: they go together, so none can go alone
        group = nothing(groups)
    return group, inner


def by_block(vector: Vector, blocks: int) -> list[Spread]:
    """The labels of a dimension viewed as blocks x places."""
    table = vector.reshape(blocks, -1)
    dims = []
    for dim in (0, 1):
        first = table[:1] if dim == 0 else table[:, :1]
        if table.shape[dim] > 1 and (table != first).any():
            dims.append(dim)
        else:
            table = first
    return [Spread(table, tuple(dims))] if table.any() else []


def _product(op: OpCall, group: Vector, inner: Vector | None, size: int) -> Vector:
    """Labels of channels that stand group by group."""
    outer = np.repeat(group, size)
    if inner is None:
        return outer
    spreads = [Spread(labels, (0,)) for labels in (outer, np.tile(inner, group.size)) if labels.any()]
    return op.place(spreads).get(0, nothing(outer.size))
