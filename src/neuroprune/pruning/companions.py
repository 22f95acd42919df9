"""What has to be cut together with a network: the state of its optimizers, and its averaged copies (EMA)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_leaves

from neuroprune.base.errors import UserError
from neuroprune.pruning.plan import Plan, fingerprint
from neuroprune.pruning.tensors import named_tensors, shrink
from neuroprune.pruning.transaction import Swap, Table

#: what AveragedModel, DataParallel and torch.compile put before every name
_WRAPPERS = ("module", "_orig_mod")

Dims = Mapping[int, tuple[int, ...]]
Optimizers = Optimizer | Iterable[Optimizer] | None
Averages = nn.Module | Mapping[str, Tensor] | Iterable[nn.Module | Mapping[str, Tensor]]


def averages_of(ema: Averages) -> tuple[list[nn.Module], list[Mapping[str, Tensor]]]:
    """Modules and state dicts apart. Raises UserError for anything else."""
    given = [ema] if isinstance(ema, (nn.Module, Mapping)) else list(ema)
    for entry in given:
        if not isinstance(entry, (nn.Module, Mapping)):
            raise UserError(
                "ema holds something that is neither a module nor a dict of tensors",
                value=type(entry).__name__,
                mend="pass the averaged module, or its tensors by name: dict(zip(names, averages))",
            )
    modules = [entry for entry in given if isinstance(entry, nn.Module)]
    return modules, [entry for entry in given if not isinstance(entry, nn.Module)]


def unwrapped(plan: Plan, network: nn.Module) -> nn.Module:
    """The network inside AveragedModel and the like that ``plan`` was made for; ``network`` where none fits."""
    inner: nn.Module | None = network
    while inner is not None:
        if fingerprint(inner) == plan.fingerprint:
            return inner
        children = dict(inner.named_children())
        inner = next((children[name] for name in _WRAPPERS if name in children), None)
    return network


class Followers:
    """Optimizers and state dicts that let go of what leaves the model with whole modules."""

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], states: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self.model, self.optimizers, self.states = model, optimizers, states
        self.before = _every_name(model)

    def tables(self) -> list[Table]:
        """All that ``let_go`` may change."""
        groups = [group["params"] for optimizer in self.optimizers for group in optimizer.param_groups]
        states = [state for state in self.states if isinstance(state, MutableMapping)]
        return [*groups, *(optimizer.state for optimizer in self.optimizers), *states]

    def let_go(self) -> None:
        """Drop the parameters, states and averages whose names the model had and has no more."""
        after = _every_name(self.model)
        left = {id(tensor) for tensor in after.values()}
        gone = [tensor for tensor in self.before.values() if id(tensor) not in left]
        numbers = {id(tensor) for tensor in gone}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"][:] = [p for p in group["params"] if id(p) not in numbers]
            for tensor in gone:
                optimizer.state.pop(tensor, None)
        for state in self.states:
            for name in [name for name in state if _plain(name, self.before) in self.before.keys() - after.keys()]:
                del state[name]  # type: ignore[attr-defined]  # a mapping that cannot let go says so itself


def _every_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under each of their names: tied weights several times."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def swaps_of_state_dict(plan: Plan, model: nn.Module, state: Mapping[str, Tensor]) -> list[Swap]:
    """One swap per entry of ``state`` that ``plan`` cuts; tied weights are cut under each of their names.

    Entries that are absent stay so (averages of trainable parameters alone). Raises UserError when no name or a
    shape does not fit.
    """
    tensors = named_tensors(model)
    first = {id(tensor): name for name, tensor in tensors.items()}
    own = {name: first[id(tensor)] for name, tensor in _every_name(model).items()}
    found = {name: own[_plain(name, own)] for name in state if _plain(name, own) in own}
    if not found:
        raise UserError(
            "no tensor of this ema dict has the name of one of the model's",
            value=f"{', '.join(list(state)[:3]) or 'nothing'}; the model has {', '.join(list(own)[:3])}",
            mend="name the averages as model.state_dict() does",
        )
    for name, canonical in found.items():
        if state[name].shape != tensors[canonical].shape:
            raise UserError(
                "an averaged tensor has another shape than the model's",
                where=name,
                value=f"{tuple(state[name].shape)}, not {tuple(tensors[canonical].shape)}",
                mend="pass the averages of this very model, before either was cut",
            )
    cut = {name: plan.removed[canonical] for name, canonical in found.items() if canonical in plan.removed}
    return [Swap(state[name], shrink(state[name].data, dims)) for name, dims in cut.items()]


def _plain(name: str, own: Mapping[str, object]) -> str:
    """``name`` without the prefixes of wrappers, as far as they are not the model's own."""
    while name not in own and name.startswith(tuple(f"{wrapper}." for wrapper in _WRAPPERS)):
        name = name.partition(".")[2]
    return name


def swaps_of_optimizers(plan: Plan, model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Swap]:
    """One swap per state tensor of a parameter that ``plan`` cuts; scalars (the step) stay.

    Raises UserError for a state whose layout is unknown, and for an optimizer of another model.
    """
    cut = {id(tensor): name for name, tensor in named_tensors(model).items() if name in plan.removed}
    swaps = []
    for optimizer in optimizers:
        _check(optimizer, model, has_cuts=bool(cut))
        for parameter, held in optimizer.state.items():
            name = cut.get(id(parameter))
            if name is not None:
                where = f"{type(optimizer).__name__}, state of {name}"
                swaps += _swaps_of_state(held, parameter.shape, plan.removed[name], where)
    return swaps


def optimizers_of(given: Optimizers) -> list[Optimizer]:
    """Those that were given, and those inside them (SAM, Lookahead and the like keep one as an attribute)."""
    found: list[Optimizer] = []
    queue: list[Any] = [] if given is None else [given] if isinstance(given, Optimizer) else list(given)
    while queue:
        optimizer = queue.pop(0)
        if not isinstance(optimizer, Optimizer):
            raise UserError(
                "this is no torch optimizer", value=type(optimizer).__name__, mend="pass a torch.optim.Optimizer"
            )
        if not any(optimizer is known for known in found):
            found.append(optimizer)
            queue += [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return found


def _check(optimizer: Optimizer, model: nn.Module, *, has_cuts: bool) -> None:
    kind = type(optimizer).__name__
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise UserError(
            "this optimizer holds no parameter of the model",
            where=kind,
            value=type(model).__name__,
            mend="pass the optimizer that was made from this model's parameters(), not from a copy's",
        )
    if has_cuts and isinstance(optimizer, LBFGS) and optimizer.state:
        raise UserError(
            "LBFGS keeps its history over all parameters in one vector, which cannot be cut",
            where=kind,
            mend="apply the plan without it and make a new LBFGS afterwards",
        )


def _swaps_of_state(held: Any, shape: torch.Size, removed: Dims, where: str) -> list[Swap]:
    entries = held.items() if isinstance(held, Mapping) else [("", held)]
    swaps = []
    for key, value in entries:
        for state in tree_leaves(value):
            if isinstance(state, Tensor):
                dims = _dims_of_state(str(key), state.shape, shape, removed, where)
                swaps += [Swap(state, shrink(state.data, dims))] if dims else []
    return swaps


def _dims_of_state(key: str, state: torch.Size, shape: torch.Size, removed: Dims, where: str) -> Dims:
    """``removed``, for a state tensor that is laid out like the parameter, like one with a dimension reduced, or
    is one number. Raises UserError for any other.
    """
    if len(state) == len(shape) and all(a in (b, 1) for a, b in zip(state, shape, strict=True)):
        return {dim: indices for dim, indices in removed.items() if state[dim] == shape[dim]}
    if state.numel() == 1:
        return {}
    # One dimension less: transformers' Adafactor keeps row and column means so.
    lost = [d for d in range(len(shape)) if (*shape[:d], *shape[d + 1 :]) == tuple(state)]
    readings = [{dim - (dim > d): indices for dim, indices in removed.items() if dim != d} for d in lost]
    if len(lost) > 1 and any(reading != readings[0] for reading in readings):
        # A square parameter: both means have the same shape, only their names tell.
        mean_over = {"row": len(shape) - 1, "col": len(shape) - 2}
        named = [dim for word, dim in mean_over.items() if word in key.lower() and dim in lost]
        readings = [readings[lost.index(dim)] for dim in named]
    if readings:
        return readings[0]
    raise UserError(
        f"it is not known how the optimizer's state {key!r} belongs to its parameter",
        where=where,
        value=f"shape {tuple(state)}, the parameter has {tuple(shape)}",
        mend="apply the plan without this optimizer and make a new one afterwards",
    )
