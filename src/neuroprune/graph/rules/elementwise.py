"""Elementwise operators: labels of operands that meet are tied.

Which operators are elementwise is not our list: PyTorch tags them (``torch.Tag.pointwise``); the few names
below act elementwise without bearing the tag.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from neuroprune.graph.labels import NO_LABELS, Labels
from neuroprune.graph.rules._base import OpCall, rule


@rule(
    "clone", "copy", "_to_copy", "hardswish", "native_dropout",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli",
    "detach", "alias", "lift_fresh", "lift_fresh_copy", "fill_", "zero_",
    "_prelu_kernel", "rrelu_with_noise", "log_sigmoid_forward", "masked_fill",
)  # fmt: skip
def elementwise(op: OpCall) -> list[Labels]:
    ndim = op.outputs[0].dim()
    tensors = [value for value in op.args.values() if isinstance(value, Tensor)]
    met = op.meet([(op.take_all(t), op.extent(t)) for t in tensors], ndim)
    return [met if tuple(out.shape) == tuple(op.outputs[0].shape) else NO_LABELS for out in op.outputs]


@rule("glu")
def gated(op: OpCall) -> list[Labels]:
    """The first half times the sigmoid of the second: both must keep the same places."""
    dim = op.args["dim"] % op.args["self"].dim()
    labels = dict(op.take_all("self"))
    if dim in labels:
        first, second = np.split(labels[dim], 2)
        op.tie(first, second)
        labels[dim] = first
    return [labels]
