"""Operators that sum over a dimension: convolution, matrix products, embedding.

A label on the summed dimension is tied to its partner in the other operand and consumed there; the other
dimensions pass to the output.
"""

from __future__ import annotations

from torch import Tensor

from neuroprune.graph.labels import Factors, vector
from neuroprune.graph.rules._base import OpCall, rule


def contract(op: OpCall, a: Factors, a_dim: int, b: Factors, b_dim: int) -> None:
    """Tie and consume the labels of dimension ``a_dim`` of a and ``b_dim`` of b, which are summed together.

    Where only one side can shrink nothing is consumed, so the framework pins it.
    """
    left, right = op.only(a, a_dim), op.only(b, b_dim)
    if not left or not right:
        return
    for x in left:
        for y in right:
            op.tie(x.along(a_dim), y.along(b_dim), "is summed against a dimension that cannot shrink")
    op.consume(*left, *right)


def relocate(op: OpCall, factors: Factors, mapping: dict[int, int], ndim: int) -> Factors:
    """Factors along single dimensions, moved to the output dimensions ``mapping`` gives."""
    out: Factors = ()
    for source, target in mapping.items():
        for factor in op.only(factors, source):
            op.keep(factor)
            out += (vector(factor.along(source), ndim, target),)
    return out


def add_bias(op: OpCall, bias: str, product: Factors) -> Factors:
    """The broadcast addition of a bias argument to a product that carries ``product``."""
    value = op.args.get(bias)
    if not isinstance(value, Tensor):
        return product
    shape = op.outputs[0].shape
    return op.meet([(product, shape), (op.factors_of(value), value.shape)], len(shape))


@rule("mm", "addmm", "bmm", "baddbmm", "matmul", "addbmm", "mv", "addmv", "dot")
def matrix_product(op: OpCall) -> list[Factors]:
    left, right = ("batch1", "batch2") if "batch1" in op.args else ("mat1", "mat2")
    if "self" in op.args and "mat2" in op.args and "mat1" not in op.args:
        left, right = "self", "mat2"
    if left not in op.args or op.args[left].dim() != op.args[right].dim():
        return [()]
    a, b, ndim = op.factors(left), op.factors(right), op.outputs[0].dim()
    if ndim != op.args[left].dim():
        return [()]
    contract(op, a, ndim - 1, b, ndim - 2)
    out = relocate(op, a, {ndim - 2: ndim - 2}, ndim) + relocate(op, b, {ndim - 1: ndim - 1}, ndim)
    if ndim == 3:
        sides = [(op.only(a, 0), op.args[left].shape), (op.only(b, 0), op.args[right].shape)]
        out += op.meet([(fs, (shape[0], 1, 1)) for fs, shape in sides], ndim)
    return [add_bias(op, "self", out) if left != "self" else out]


@rule("linear")
def linear(op: OpCall) -> list[Factors]:
    x, weight, ndim = op.factors("input"), op.factors("weight"), op.outputs[0].dim()
    contract(op, x, ndim - 1, weight, 1)
    rest = {dim: dim for dim in range(ndim - 1)}
    out = relocate(op, x, rest, ndim) + relocate(op, weight, {0: ndim - 1}, ndim)
    return [add_bias(op, "bias", out)]


@rule("embedding")
def embedding(op: OpCall) -> list[Factors]:
    ndim = op.outputs[0].dim()
    return [relocate(op, op.factors("weight"), {1: ndim - 1}, ndim)]


@rule("convolution", "_convolution")
def convolution(op: OpCall) -> list[Factors]:
    """weight: [out, in / groups, *kernel], or [in, out / groups, *kernel] when transposed."""
    x, weight, ndim = op.factors("input"), op.factors("weight"), op.outputs[0].dim()
    # Kernel positions are no channels: settled without being consumed, they are never cut nor complained about.
    op.keep(*(f for f in weight if min(f.dims) > 1))
    if op.args["groups"] > 1:
        out = _grouped(op, x, weight, ndim)
    else:
        inputs, outputs = (0, 1) if op.args["transposed"] else (1, 0)
        contract(op, x, 1, weight, inputs)
        out = relocate(op, weight, {outputs: 1}, ndim)
    bias = op.factors("bias")
    op.keep(*bias)
    for factor in bias:
        for o in out:
            op.tie(factor.along(0), o.along(1))
    return [out]


def _grouped(op: OpCall, x: Factors, weight: Factors, ndim: int) -> Factors:
    """Whole groups go: all inputs and outputs of a group are one unit (depthwise: one channel each)."""
    groups, per_input, rows = op.args["groups"], op.only(x, 1), op.only(weight, 0)
    if not per_input or not rows:
        return ()
    for a in per_input:
        for w in rows:
            inputs, outputs = a.along(1).reshape(groups, -1), w.along(0).reshape(groups, -1)
            for columns in (inputs, outputs):
                op.tie(columns, inputs[:, :1].expand_as(columns), "shares a convolution group")
    op.keep(*per_input, *rows)
    if not op.args["transposed"]:
        return tuple(vector(w.along(0), ndim, 1) for w in rows)
    per_group = op.args["weight"].shape[1]  # outputs of one group of a transposed convolution
    first = rows[0].along(0).reshape(groups, -1)[:, :1]
    return (vector(first.expand(groups, per_group).flatten(), ndim, 1),)
