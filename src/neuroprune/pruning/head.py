"""Another number of classes: the layer that gives the scores is made anew, plan and masks stay."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.calls import as_call, tensors_in
from neuroprune.graph.outputs import reaches_output
from neuroprune.pruning.plan import Plan, fingerprint


@dataclass(frozen=True)
class Head:
    """The layer that gives the class scores: the path of its module and the number of scores."""

    module: str
    outputs: int


@dataclass(frozen=True)
class Transferred:
    """Networks for another number of classes. ``plan`` leads from ``dense``, new head included, to ``model``;
    ``masks`` is a state for `Masks.load_state`. What was not given is None."""

    model: nn.Module
    head: Head
    dense: nn.Module | None
    plan: Plan | None
    masks: dict[str, Tensor] | None


def transfer(
    model: nn.Module,
    example_inputs: Any,
    classes: int,
    *,
    dense: nn.Module | None = None,
    plan: Plan | None = None,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Transferred:
    """Copies of a pruned ``model`` and its ``dense`` network with a fresh head of ``classes`` scores.

    >>> moved = neuroprune.transfer(result.model, inputs, 5, dense=model, plan=result.plan)  # doctest: +SKIP

    Nothing names the head: it is the one layer whose rows reach the model's output. Its weights are drawn anew
    from ``seed``; everything else is kept. A plan needs ``dense``, the network it was made for, because it then
    speaks of that network with the new head. In the head's own mask a column stays off that was off in all rows.

    Raises UserError where no single linear layer or convolution makes the output (what was found is named), and
    where the model's code does not bear another number of classes.
    """
    if plan is not None and dense is None:
        raise UserError(
            "the plan speaks of the dense network", mend="pass dense=, the network the plan was made for"
        )
    moved, control = copy.deepcopy(model), copy.deepcopy(dense)
    head = new_head(moved, example_inputs, classes, seed)
    if control is not None:
        new_head(control, example_inputs, classes, seed)
    carried = None if masks is None else masks_of_head(masks, head)
    return Transferred(moved, head, control, with_head(plan, control), carried)


def with_head(plan: Plan | None, dense: nn.Module | None) -> Plan | None:
    """The same cuts, of ``dense`` as it is now: what is removed from a head are columns, never rows."""
    return plan if plan is None or dense is None else replace(plan, fingerprint=fingerprint(dense))


def masks_of_head(masks: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """The masks of a network before its head was made anew, for the network with the new head."""
    name = _of(head.module, "weight")
    found = dict(masks)
    if name in found:
        columns = (found[name] != 0).any(dim=0).to(found[name].dtype)
        found[name] = columns.expand(head.outputs, *columns.shape).clone()
    return found


def find_head(model: nn.Module, example_inputs: Any) -> Head:
    """The one linear layer or convolution whose rows are the class scores. Raises UserError where none is."""
    found = reaches_output(model, example_inputs)
    modules = {name.rpartition(".")[0] for name, _ in found}
    path = next(iter(modules)) if len(modules) == 1 else None
    layer = None if path is None else model.get_submodule(path)
    own = {_of(path or "", key) for key in ("weight", "bias")}
    if path is None or not _is_layer(layer) or not {(name, 0) for name in own} >= set(found):
        raise _no_head(model, found)
    assert layer is not None
    weight = layer.weight
    shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight and n not in own]
    if shared:
        raise UserError(
            f"the layer {path!r} that gives the class scores shares its weight with {shared[0]}",
            where=f"model {type(model).__name__}",
            mend="untie the two before the transfer",
        )
    assert isinstance(weight, Tensor)
    return Head(path, weight.shape[0])


def _is_layer(module: nn.Module | None) -> bool:
    plain = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
    return plain or isinstance(module, nn.Linear)


def _no_head(model: nn.Module, found: tuple[tuple[str, int], ...]) -> UserError:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    some = [f"{name}, dimension {dim} ({tensors[name].shape[dim]})" for name, dim in found[:6]]
    more = f" and {len(found) - len(some)} more" if len(found) > len(some) else ""
    return UserError(
        "the layer that gives the class scores cannot be told: it must be one linear layer or one convolution",
        where=f"model {type(model).__name__}",
        value=("; ".join(some) + more + " reach the output") if found else "no parameter's rows reach the output",
        mend="let forward return the scores of one layer (and no features beside them), or set the head yourself",
    )


def new_head(model: nn.Module, example_inputs: Any, classes: int, seed: int) -> Head:
    """A fresh head of ``classes`` outputs, in place. Raises UserError; then the model is as it was."""
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UserError("the number of classes must be 1 or more", value=classes, mend="give classes=10")
    old = find_head(model, example_inputs)
    layer = model.get_submodule(old.module)
    before, kept = _shapes(model, example_inputs), dict(layer.__dict__)
    parameters = dict(layer._parameters)
    set_head(model, Head(old.module, classes), seed)
    problem = _problem(model, example_inputs, before, old.outputs, classes)
    if problem:
        layer.__dict__.update(kept)
        layer._parameters.update(parameters)
        raise UserError(
            f"the model's code does not bear another number of classes: {problem}",
            where=f"model {type(model).__name__}, head {old.module!r}",
            value=f"{classes} classes instead of {old.outputs}",
            mend="keep no number of classes in forward besides the layer's own",
        )
    return Head(old.module, classes)


def set_head(model: nn.Module, head: Head, seed: int = 0) -> None:
    """Give the layer ``head.module`` its new number of rows, drawn from ``seed``, in place; no tracing.

    The module stays (its class, its hooks); weight and bias are new parameters, so an optimizer must be made
    anew. Raises UserError where there is no such layer.
    """
    layer = dict(model.named_modules()).get(head.module)
    if layer is None or not _is_layer(layer):
        raise UserError(
            f"the model has no linear layer or convolution {head.module!r}",
            where=type(model).__name__,
            mend="construct the model with the arguments it had when its head was replaced",
        )
    for key in ("weight", "bias"):
        old = getattr(layer, key)
        if isinstance(old, Tensor):
            empty = old.detach().new_empty(head.outputs, *old.shape[1:])
            setattr(layer, key, nn.Parameter(empty, requires_grad=old.requires_grad))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", head.outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer.reset_parameters()


@contextlib.contextmanager
def only_head_learns(model: nn.Module, head: Head) -> Iterator[None]:
    """All other parameters are frozen as long as this lasts."""
    own = set(map(id, model.get_submodule(head.module).parameters()))
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted and id(parameter) in own)
        yield
    finally:
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)


def _of(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _shapes(model: nn.Module, example_inputs: Any) -> list[tuple[int, ...]]:
    args, kwargs = as_call(example_inputs)
    with evaluation(model):
        return [tuple(tensor.shape) for tensor in tensors_in(model(*args, **kwargs))]


def _problem(model: nn.Module, inputs: Any, before: list[tuple[int, ...]], old: int, new: int) -> str:
    """Empty where the output is as it was but for the classes."""
    try:
        after = _shapes(model, inputs)
    except Exception as error:  # the user's code may raise anything
        return f"{type(error).__name__}: {error}"
    fits = len(after) == len(before) and all(
        len(a) == len(b) and all(m == n or (n, m) == (old, new) for m, n in zip(a, b, strict=True))
        for a, b in zip(after, before, strict=True)
    )
    moved = old == new or after != before
    return "" if fits and moved else f"it returns {after} instead of {before}"
