"""Batch norm: every per-channel vector goes with its channel. Valid in evaluation mode, where the statistics
of one channel do not depend on the others; in training mode each channel still has its own statistics."""

from __future__ import annotations

from torch import Tensor

from neuroprune.graph.labels import Factors
from neuroprune.graph.rules._base import OpCall, rule

_VECTORS = ("weight", "bias", "running_mean", "running_var")


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
)  # fmt: skip
def batch_norm(op: OpCall) -> list[Factors]:
    x = op.factors("input")
    channels = op.only(x, 1)
    for name in _VECTORS:
        vectors = op.factors(name)
        if isinstance(op.args.get(name), Tensor) and not vectors and channels:
            op.pin(channels[0].labels, f"the batch norm's {name} cannot shrink")
        for v in vectors:
            op.keep(v)
            if not channels:
                op.pin(v.labels, "the normalised tensor's channels cannot shrink")
            for c in channels:
                op.tie(v.along(0), c.along(1))
    op.keep(*channels)
    return [channels] + [() for _ in op.outputs[1:]]


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm", "_softmax", "_log_softmax", "_safe_softmax")
def statistics(op: OpCall) -> list[Factors]:
    """Means, variances and sums over a dimension change when part of it goes: not exact, so not cut."""
    op.complaint = "statistics over this dimension would change"
    return [() for _ in op.outputs]
