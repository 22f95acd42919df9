"""Normalisation. Batch norm in evaluation mode treats channels one by one: exact. The others take statistics
over channels: what is kept of a cut network is then normalised over the kept channels."""

from __future__ import annotations

from neuroprune.graph.labels import NO_LABELS, Labels, Vector, nothing
from neuroprune.graph.rules._base import OpCall, rule
from neuroprune.graph.rules.contraction import by_block


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
)  # fmt: skip
def batch_norm(op: OpCall) -> list[Labels]:
    labels = op.take_all("input")
    own_statistics = op.args.get("running_mean") is None or bool(op.args.get("training"))
    for dim, vector in labels.items():
        if dim != 1 and own_statistics:
            op.statistic(vector)  # weight standardisation: each filter over its inputs and kernel positions
    channels = _with_vectors(op, labels.get(1), ("weight", "bias", "running_mean", "running_var"))
    out = dict(labels)
    if channels is not None:
        out[1] = channels
    return [out] + [NO_LABELS for _ in op.outputs[1:]]


def _with_vectors(op: OpCall, channels: Vector | None, names: tuple[str, ...]) -> Vector | None:
    """``channels`` tied to the per-channel vectors called ``names``."""
    for name in names:
        value, vector = op.tensor(name), op.take(name, 0)
        if value is None or value.numel() == 1:
            continue
        if vector is None or channels is None:
            op.pin(channels, f"the normalisation's {name} cannot shrink")
            op.pin(vector, "the normalised tensor's channels cannot shrink")
        else:
            op.tie(channels, vector)
    return channels


@rule("native_layer_norm")
def layer_norm(op: OpCall) -> list[Labels]:
    """Statistics over the last dimensions; weight and bias bear the same labels."""
    ndim, behind = op.args["input"].dim(), len(op.args["normalized_shape"])
    labels = op.take_all("input")
    for dim, vector in labels.items():
        if dim >= ndim - behind:
            op.statistic(vector)
    shape = op.args["input"].shape
    operands: list[tuple[Labels, tuple[int, ...]]] = [(labels, tuple(shape))]
    for name in ("weight", "bias"):
        value = op.tensor(name)
        if value is not None:
            operands.append((op.take_all(value), tuple(value.shape)))
    return [op.meet(operands, ndim)] + [NO_LABELS for _ in op.outputs[1:]]


@rule("native_group_norm")
def group_norm(op: OpCall) -> list[Labels]:
    """Channels are a product of group and place: whole groups go exactly, places change the statistics."""
    labels, groups = op.take_all("input"), int(op.args["group"])
    channels = _with_vectors(op, labels.get(1), ("weight", "bias"))
    for dim in labels:
        if dim > 1:
            op.pin(labels[dim], "statistics over space would change")
    if channels is not None:
        parts = op.place(by_block(channels, groups))
        op.statistic(parts.get(1))
        op.statistical = True  # the number of groups of the cut network differs too
        op.counted["num_groups"] = parts.get(0, nothing(groups))
    return [{**labels, **({1: channels} if channels is not None else {})}] + [NO_LABELS for _ in op.outputs[1:]]


@rule("_weight_norm_interface")
def weight_norm(op: OpCall) -> list[Labels]:
    """v / |v| * g, the norm taken over all dimensions but one: what is masked adds nothing to it."""
    dim = op.args["dim"]
    v = op.take_all("v")
    out = op.meet([(v, op.args["v"].shape), (op.take_all("g"), op.args["g"].shape)], op.args["v"].dim())
    return [out, {dim: out[dim]} if dim in out else NO_LABELS]


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(op: OpCall) -> list[Labels]:
    labels = op.take_all("self")
    if op.args["self"].dim():
        op.statistic(labels.get(op.args["dim"] % op.args["self"].dim()))
    return [labels]
