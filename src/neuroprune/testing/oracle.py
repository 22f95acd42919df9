"""The exactness oracle as a public tool."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neuroprune.pruning.bypass import names_left, names_of
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.tensors import named_tensors, shrink
from neuroprune.pruning.verify import TOLERANCE, verify


def assert_exact(dense: nn.Module, pruned: nn.Module, plan: Plan, inputs: Any) -> None:
    """Raise AssertionError unless ``pruned`` is ``dense`` without the plan's indices, and the cut is exact.

    Two things are checked: every tensor of ``pruned`` has the shape and values of the dense one with the
    removed indices taken out, tensors of removed blocks are gone, and the plan on ``dense`` computes what the
    masked dense network computes (float64, relative error <= 1e-9).
    """
    small, names, left = named_tensors(pruned), names_of(dense), names_left(dense, plan.bypassed)
    for name, tensor in named_tensors(dense).items():
        found = [alias for alias in names[id(tensor)] if alias in small]
        if not left[id(tensor)]:
            assert not found, f"{name} belongs to a removed block and is still there"
            continue
        assert found, f"the pruned model lacks {name}"
        expected, name = shrink(tensor.data, plan.removed.get(name, {})), found[0]
        assert small[name].shape == expected.shape, f"{name}: {small[name].shape} is not {expected.shape}"
        assert torch.equal(small[name].detach(), expected), f"{name}: the kept values differ"
    verification = verify(dense, plan, inputs)
    assert verification.exact, f"{verification.problem} (allowed {TOLERANCE:g})"
