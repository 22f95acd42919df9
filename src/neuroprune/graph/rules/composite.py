"""Operators taken as a whole, because their parts would hide the structure: attention, recurrent layers."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from neuroprune.graph.labels import NO_LABELS, Labels, Vector, nothing
from neuroprune.graph.rules._base import OpCall, rule
from neuroprune.graph.rules.contraction import contract


@rule("scaled_dot_product_attention")
def attention(op: OpCall) -> list[Labels]:
    """query: [..., L, E], key: [..., S, E], value: [..., S, Ev] -> [..., L, Ev].

    The default scale 1/sqrt(E) changes when E shrinks: a statistic. With ``enable_gqa`` a head of key and
    value serves several heads of the query.
    """
    q, k, v = (op.args[name] for name in ("query", "key", "value"))
    ndim = q.dim()
    contract(op, "query", -1, "key", -1)
    if op.args.get("scale") is None:
        op.statistic(op.peek("query", -1))
    op.complaint = "attention mixes the positions of this dimension"
    out: dict[int, Vector] = {}
    width = op.take("value", -1)
    length = op.take("query", -2)
    op.pin(length, op.complaint)
    for dim in range(ndim - 2):
        shared = _heads(op, [(t, op.take(t, dim)) for t in (q, k, v)], dim)
        if shared is not None:
            out[dim] = shared
            op.records.kinds.append((shared, "head"))
    if width is not None:
        out[ndim - 1] = width
    mask = op.tensor("attn_mask")
    if mask is not None:
        shape = (*q.shape[:-1], k.shape[-2])
        op.meet([(op.take_all(mask), mask.shape), ({d: x for d, x in out.items() if d < ndim - 2}, shape)], ndim)
    return [out]


def _heads(op: OpCall, sides: list[tuple[Tensor, Vector | None]], dim: int) -> Vector | None:
    """Labels of a batch dimension; those of fewer key heads are repeated, head by head."""
    size = sides[0][0].shape[dim]
    if all(vector is None for _, vector in sides):
        return None
    rows = [
        (vector if vector is None or t.shape[dim] == size else np.repeat(vector, size // t.shape[dim]))
        for t, vector in sides
    ]
    met = op.meet([({0: row} if row is not None else NO_LABELS, (size,)) for row in rows], 1)
    return met.get(0)


@rule("bilinear")
def bilinear(op: OpCall) -> list[Labels]:
    """input1: [..., I], input2: [..., J], weight: [O, I, J] -> [..., O]."""
    last = op.outputs[0].dim() - 1
    contract(op, "input1", -1, "weight", 1)
    contract(op, "input2", -1, "weight", 2)
    sides = [(op.take_all(x, but=[last]), (*op.args[x].shape[:-1], 1)) for x in ("input1", "input2")]
    out = dict(op.meet(sides, last + 1))
    rows = op.take("weight", 0)
    bias = op.take("bias", 0)
    if rows is not None and bias is not None:
        op.tie(rows, bias)
    return [{**out, last: rows} if rows is not None else out]


@rule("pad")
def pad(op: OpCall) -> list[Labels]:
    """Copies of what stands at the border: the padded dimensions must not shrink, the others pass."""
    op.complaint = "is padded with copies of its neighbours"
    ndim, widths = op.args["input"].dim(), op.args["pad"]
    padded = [ndim - 1 - i // 2 for i in range(len(widths)) if widths[i]]
    return [op.take_all("input", but=padded)]


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(op: OpCall) -> list[Labels]:
    """A hidden unit owns its row in every gate, its column of the recurrent matrix and its state.

    params per layer and direction: w_ih [gates * H, in], w_hh [gates * H, H or P], biases [gates * H] and,
    for a projected LSTM, w_hr [P, H].
    """
    params, layers = list(op.args["params"]), int(op.args["num_layers"])
    directions = 2 if op.args["bidirectional"] else 1
    each = len(params) // (layers * directions)
    states: list[Vector] = []
    cells: list[Vector] = []
    below = op.take("input", -1)
    for layer in range(layers):
        outs = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            hidden, state = _cell(op, params[at : at + each], below)
            cells.append(hidden)
            states.append(state)
            outs.append(state)
        below = np.concatenate(outs)
    return _results(op, below, states, cells)


def _cell(op: OpCall, params: list[Tensor], below: Vector | None) -> tuple[Vector, Vector]:
    """(labels of the hidden units, labels of what the layer hands on) of one layer in one direction."""
    biases = 2 if op.args["has_biases"] else 0
    w_ih, w_hh = params[0], params[1]
    projection = params[2 + biases] if len(params) > 2 + biases else None
    units = (projection if projection is not None else w_hh).shape[1]
    hidden = op.take(projection if projection is not None else w_hh, 1)
    hidden = hidden if hidden is not None else nothing(units)
    for tensor in params[: 2 + biases]:
        rows = op.take(tensor, 0)
        if rows is not None:
            gates = rows.reshape(-1, units)
            op.tie(gates, hidden, "belongs to a hidden unit that cannot shrink")
    _sum_over(op, below, op.take(w_ih, 1))
    op.consume(hidden)
    if projection is None:
        return hidden, hidden
    state = op.take(projection, 0)
    _sum_over(op, state, op.take(w_hh, 1))
    return hidden, state if state is not None else nothing(projection.shape[0])


def _sum_over(op: OpCall, vector: Vector | None, columns: Vector | None) -> None:
    if vector is not None and columns is not None:
        op.tie(vector, columns, "is summed against a dimension that cannot shrink")
        op.consume(columns)
    else:
        for one in (vector, columns):
            op.pin(one, "is summed against a dimension that cannot shrink")


def _results(op: OpCall, below: Vector | None, states: list[Vector], cells: list[Vector]) -> list[Labels]:
    """output [..., directions * P], h_n [layers * directions, ..., P], c_n [layers * directions, ..., H].

    The states of all layers stand in one tensor: only where that tensor goes on are they tied together, so its
    labels are a product which the oracle checks; here they are simply tied when the initial state is labelled.
    """
    last = op.outputs[0].dim() - 1
    out: list[Labels] = [{last: below} if below is not None else NO_LABELS]
    hx = op.args["hx"] if isinstance(op.args["hx"], (tuple, list)) else [op.args["hx"]]
    for tensor, vectors in zip(hx, (states, cells), strict=False):
        width = op.take(tensor, -1)
        for vector in vectors:
            if vector.size > 1:
                op.tie(vector, width if width is not None else nothing(vector.size), "is an initial state")
        out.append({last: vectors[0]})
    return out[: len(op.outputs)]
