"""What must hold for any network: cut exactly, or refused with a reason, and never an exception of ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuroprune.graph.calls import as_call, tensors_in
from neuroprune.pruning import Plan, prune
from neuroprune.testing.oracle import assert_exact

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Finding:
    """``cut``: something was removed. ``statistics``: the cut changes one. ``rescued``: how many groups the rules
    let through and only the safety net stopped; compression lost, and a rule that should have known better."""

    cut: bool
    statistics: bool
    rescued: int


def examine(model: nn.Module, inputs: Any, ratio: float, *, seed: int = 0) -> Finding:
    """Cut ``model`` and raise AssertionError unless the result is right by every yardstick there is.

    Where no statistic changes, one yardstick shares nothing with the engine: :func:`zeroed_error`.
    """
    result = prune(model, inputs, ratio=ratio, criterion="random", seed=seed)
    assert result.verification.exact, result.verification.problem
    assert_exact(model, result.model, result.plan, inputs)
    assert all(refusal.reason for refusal in result.refused), "a refusal without a reason"
    if not result.verification.statistics:
        error = zeroed_error(model, result.model, result.plan, inputs)
        assert error <= TOLERANCE, f"the zeroed dense network differs by {error:.2e}"
    rescued = sum(refusal.operator == "verify" for refusal in result.refused)
    return Finding(bool(result.plan.removed), result.verification.statistics, rescued)


def zeroed_error(dense: nn.Module, pruned: nn.Module, plan: Plan, inputs: Any) -> float:
    """Largest difference between ``pruned`` and ``dense`` with the plan's indices set to zero, in float64.

    Relative to the largest value of each output; infinite where shapes differ or a value is not finite. Knows
    no labels and no rules: it writes zeros into a copy of the dense weights and runs both networks.
    """
    reference = copy.deepcopy(dense).double().eval()
    tensors = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    for name, dims in plan.removed.items():
        for dim, indices in dims.items():
            tensors[name].data.index_fill_(dim, torch.tensor(indices), 0)
    args, kwargs = as_call(inputs)
    doubled = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args]
    with torch.no_grad():
        nets = (reference, copy.deepcopy(pruned).double().eval())
        expected, got = (tensors_in(net(*copy.deepcopy(doubled), **kwargs)) for net in nets)
    errors = [_relative(a, b) for a, b in zip(expected, got, strict=True)]
    return max(errors, default=float("inf"))


def _relative(expected: torch.Tensor, got: torch.Tensor) -> float:
    if expected.shape != got.shape or not bool(expected.isfinite().all()):
        return float("inf")
    scale = max(float(expected.abs().max()), 1e-30)
    return float((expected - got).abs().max()) / scale
