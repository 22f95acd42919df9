"""The oracle: a cut is right when the smaller network computes what the masked dense network computes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import copy_of, evaluation, in_float64, sharing_copy, training_branches
from neuroprune.graph.calls import as_calls, map_tensors, tensors_in, with_one_more
from neuroprune.graph.records import user_line_of
from neuroprune.graph.trace import Trace, trace
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.reference import masked_outputs, zeroed
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.tensors import named_tensors

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """``max_relative_error``: largest difference over the largest magnitude of the same output tensor.

    ``problem`` says what is wrong where ``exact`` is False; ``where``: ``file:line`` of the user's code, if known.
    ``groups``: for each group that was cut, ``exact`` (equal to the dense network with weights zeroed) or
    ``statistics`` (equal to the dense network masked after every operator, with norms over the kept channels).
    """

    max_relative_error: float
    values: int
    exact: bool
    problem: str = ""
    where: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def statistics(self) -> bool:
        """Some kept values are normalised over fewer channels than in the dense network."""
        return "statistics" in self.groups.values()


def verify(
    model: nn.Module, plan: Plan, example_inputs: Any, *, found: Trace | None = None, seed: int = 0
) -> Verification:
    """Compare cut and masked copies of ``model`` in float64, at the given batch size and one larger.

    Constant tensors (zero-initialised scales, say) are replaced by noise first: where everything is zero,
    equality proves nothing. ``found``: the model's trace, if there is one. ``model`` itself is not touched.
    """
    dense = awake(copy_of(model).double(), seed)
    try:
        small = apply(plan, sharing_copy(dense))
    except UserError as error:
        return Verification(float("inf"), 0, False, f"the plan cannot be applied: {error.what}")
    try:
        calls = _widened(double_inputs(example_inputs, seed), sharing_copy(dense), seed)  # a call may leave traces
    except Exception as error:
        problem = f"the dense network does not run in float64: {type(error).__name__}: {error}"
        return Verification(float("inf"), 0, False, problem, user_line_of(error) or "unknown")
    reference = zeroed(dense, plan)
    cut = [d.group for d in plan.decisions if d.removed]
    changed = {g.name for g in found.groups if g.statistics} & set(cut) if found is not None else set[str]()
    result = None if changed else _compare_all(sharing_copy(reference), small, calls, seed)
    masked = result is None or (not result.exact and not result.where and result.values and plan.removed)
    if masked:
        found = found or trace(model, example_inputs)
        changed = {g.name for g in found.groups if g.statistics} & set(cut) or set(cut)
        result = _compare_masked(sharing_copy(reference), found, plan, small, calls, seed)
    assert result is not None
    if result.exact and found is not None and found.idle:
        result = _with_training(result, reference, small, found if masked else None, plan, calls[0], seed)
    kinds = {name: "statistics" if masked and name in changed else "exact" for name in cut}
    return replace(result, groups=kinds)


def _with_training(
    result: Verification,
    reference: nn.Module,
    small: nn.Module,
    found: Trace | None,
    plan: Plan,
    inputs: Any,
    seed: int,
) -> Verification:
    """Compare what only training runs too (auxiliary heads), where the dense network does so on these inputs and
    leaves nothing to chance. ``found``: the masked network is the reference, not the zeroed one."""

    def dense(seed: int) -> list[Any]:
        return outputs_of(sharing_copy(reference), inputs, seed, training=True)

    try:
        expected, again = dense(seed), dense(seed + 1)
        if any(relative_error(a, b) > 0 for a, b in zip(tensors_in(expected), tensors_in(again), strict=True)):
            return result
        if found is not None:
            expected = masked_outputs(sharing_copy(reference), found, plan, inputs, seed, training=True)
    except Exception:
        return result
    more = _against([expected], small, [inputs], seed, training=True)
    worst = max(result.max_relative_error, more.max_relative_error)
    return replace(more, max_relative_error=worst, values=result.values + more.values)


def _compare_all(reference: nn.Module, small: nn.Module, calls: list[Any], seed: int) -> Verification:
    expected = [outputs_of(reference, inputs, seed) for inputs in calls]
    return _against(expected, small, calls, seed)


def _compare_masked(
    reference: nn.Module, found: Trace, plan: Plan, small: nn.Module, calls: list[Any], seed: int
) -> Verification:
    try:
        expected = [masked_outputs(reference, found, plan, inputs, seed) for inputs in calls]
    except Exception as error:
        problem = f"the masked reference cannot be computed: {type(error).__name__}: {error}"
        return Verification(float("inf"), 0, False, problem, user_line_of(error))
    return _against(expected, small, calls, seed)


def _against(
    expected: list[Any], small: nn.Module, calls: list[Any], seed: int, *, training: bool = False
) -> Verification:
    worst, values = 0.0, 0
    small = sharing_copy(small)  # what it remembers of these calls must not reach the next comparison
    for reference, inputs in zip(expected, calls, strict=True):
        try:
            got = tensors_in(outputs_of(small, inputs, seed, training=training))
        except Exception as error:
            problem = f"the cut model fails: {type(error).__name__}: {error}"
            return Verification(float("inf"), values, False, problem, user_line_of(error))
        wanted = tensors_in(reference)
        if [t.shape for t in wanted] != [t.shape for t in got]:
            return Verification(float("inf"), 0, False, "the shapes of the outputs change")
        for a, b in zip(wanted, got, strict=True):
            worst = max(worst, relative_error(a, b))
            values += a.numel()
    exact = values > 0 and worst <= TOLERANCE
    return Verification(worst, values, exact, "" if exact else f"outputs differ by {worst:.2e}")


def relative_error(expected: Tensor, got: Tensor) -> float:
    """max |expected - got| / max |expected|; infinite where a value is not finite."""
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, got) else float("inf")
    if not (bool(expected.isfinite().all()) and bool(got.isfinite().all())):
        return 0.0 if torch.equal(expected.nan_to_num(), got.nan_to_num()) else float("inf")
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    return float((expected - got).abs().max()) / scale if expected.numel() else 0.0


def awake(model: nn.Module, seed: int) -> nn.Module:
    """Replace constant floating tensors by noise (variances stay positive), in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in named_tensors(model).items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        first = tensor.flatten()[0]
        if bool((tensor == first).all()) and (tensor.numel() > 1 or bool(first == 0)):
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
            tensor.data = noise if name.endswith("var") else noise * (tensor.flatten()[0].abs() + 0.1)
    return model


def double_inputs(example_inputs: Any, seed: int) -> Any:
    """Floating inputs as float64; constant ones (all zeros) replaced by noise."""
    generator = torch.Generator().manual_seed(seed)

    def convert(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value.detach().clone()
        value = value.detach().double()
        if value.numel() and bool((value == value.flatten()[0]).all()):
            return torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value.clone()

    return map_tensors(convert, example_inputs)


def _widened(inputs: Any, model: nn.Module, seed: int) -> list[Any]:
    """The inputs, and the inputs at another batch size where the dense model accepts that.

    Raises what the model raises when it does not run in float64 at all.
    """
    wider = with_one_more(inputs)
    with contextlib.suppress(Exception):
        outputs_of(model, wider, seed)
        return [inputs, wider]
    outputs_of(
        model, inputs, seed
    )  # a fixed batch size is the model's right; one size is all that can be compared
    return [inputs]


def outputs_of(model: nn.Module, inputs: Any, seed: int, *, training: bool = False) -> list[Any]:
    """What the model returns, one entry per example call; in evaluation mode, the random state put back.

    ``training``: the way that its code takes in training, see `training_branches`.
    """
    outputs = []
    way = training_branches(model) if training else evaluation(model)
    with way, torch.random.fork_rng(devices=[]), in_float64():
        for args, kwargs in as_calls(inputs):
            torch.manual_seed(seed)
            own = map_tensors(torch.clone, (args, kwargs))
            outputs.append(run_users_model(model, *own))
    return outputs


def run_users_model(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return model(*args, **kwargs)
