"""Costs that follow from shapes: parameters, multiply-accumulates, bytes. PyTorch's own counter does the sums."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from neuroprune.base.modes import evaluation, unchanged, without_gradients
from neuroprune.base.nouns import Cost
from neuroprune.graph.calls import as_call, map_tensors, tensors_in


def cost(model: nn.Module, example_inputs: Any) -> Cost:
    """Parameters, MACs per example (FLOPs of ``FlopCounterMode`` / 2) and fp32 bytes of the parameters.

    The first dimension of the first input tensor is the batch. Nothing is computed: fake tensors only.
    """
    args, kwargs = as_call(example_inputs)
    batch = next((x.shape[0] for x in tensors_in((args, kwargs)) if x.dim()), 1)
    # the counter hooks gradients to parameters that a module is called with, which inference mode does not bear
    with without_gradients(model), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        args, kwargs = map_tensors(lambda x: fake.from_tensor(x.detach()), (args, kwargs))
        with unchanged(model), evaluation(model), FlopCounterMode(display=False) as counter:
            model(*args, **kwargs)
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, counter.get_total_flops() // (2 * batch), 4 * params)
