"""The oracle: a cut is right when the smaller network computes what the masked dense network computes.

The reference shares nothing with the engine but the plan's indices: it zeroes those slices of the dense
network's tensors (and all own parameters of a block that goes) and runs it at full size, in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from neuroprune.base.modes import evaluation
from neuroprune.graph.interpret import as_call, tensors_in
from neuroprune.graph.records import user_line_of
from neuroprune.pruning.bypass import silence
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.surgery import apply, masked, named_tensors

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """``max_relative_error``: largest difference over the largest magnitude of the same output tensor.

    ``problem`` says what is wrong where ``exact`` is False; ``where``: ``file:line`` of the user's code, if known.
    """

    max_relative_error: float
    values: int
    exact: bool
    problem: str = ""
    where: str = ""


def verify(model: nn.Module, plan: Plan, example_inputs: Any, *, seed: int = 0) -> Verification:
    """Compare cut and masked copies of ``model`` in float64, at the given batch size and one larger.

    Constant tensors (zero-initialised scales, say) are replaced by noise first: where everything is zero,
    equality proves nothing. ``model`` itself is not touched.
    """
    dense = awake(copy.deepcopy(model).double(), seed)
    reference = copy.deepcopy(dense)
    for name, tensor in named_tensors(reference).items():
        tensor.data = masked(tensor.data, plan.removed.get(name, {}))
    silence(reference, plan.bypassed)
    small = apply(plan, dense)
    worst, values = 0.0, 0
    for inputs in _widened(double_inputs(example_inputs, seed), reference):
        try:
            expected, got = (tensors_in(run_users_model(net, inputs, seed)) for net in (reference, small))
        except Exception as error:
            problem = f"the cut model fails: {type(error).__name__}: {error}"
            return Verification(float("inf"), values, False, problem, user_line_of(error))
        if [t.shape for t in expected] != [t.shape for t in got]:
            return Verification(float("inf"), values, False, "the shapes of the outputs change")
        for a, b in zip(expected, got, strict=True):
            worst = max(worst, relative_error(a, b))
            values += a.numel()
    exact = values > 0 and worst <= TOLERANCE
    return Verification(worst, values, exact, "" if exact else f"outputs differ by {worst:.2e}")


def relative_error(expected: Tensor, got: Tensor) -> float:
    """max |expected - got| / max |expected|; infinite where a value is not finite."""
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else float("inf")
    if not (bool(expected.isfinite().all()) and bool(got.isfinite().all())):
        return 0.0 if torch.equal(expected.nan_to_num(), got.nan_to_num()) else float("inf")
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    return float((expected - got).abs().max()) / scale if expected.numel() else 0.0


def awake(model: nn.Module, seed: int) -> nn.Module:
    """Replace constant floating tensors by noise (variances stay positive), in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in named_tensors(model).items():
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
            tensor.data = noise if name.endswith("var") else noise * (tensor.flatten()[0].abs() + 0.1)
    return model


def double_inputs(example_inputs: Any, seed: int) -> Any:
    """Floating inputs as float64; constant ones (all zeros) replaced by noise."""
    generator = torch.Generator().manual_seed(seed)

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.detach().clone()
        value = value.detach().double()
        if value.numel() and bool((value == value.flatten()[0]).all()):
            return torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value.clone()

    return tree_map(convert, example_inputs)


def _widened(inputs: Any, model: nn.Module) -> list[Any]:
    """The inputs, and the inputs at another batch size where the dense model accepts that."""

    def twice(value: Any) -> Any:
        return torch.cat([value, value[:1]]) if isinstance(value, Tensor) and value.dim() else value

    wider = tree_map(twice, inputs)
    try:
        run_users_model(model, wider, 0)
    except Exception:
        return [inputs]  # a fixed batch size is the model's right; one size is all that can be compared
    return [inputs, wider]


def run_users_model(model: nn.Module, inputs: Any, seed: int) -> Any:
    args, kwargs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, as_call(inputs))
    with evaluation(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(*args, **kwargs)
