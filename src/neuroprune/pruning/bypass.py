"""Removing a whole block: the module is replaced by one that passes its input through.

A plan says what stands in for each block as a line such as ``args[0]`` or ``(args[0], None)``: which of the
block's arguments come out, in the structure its caller unpacks. Carrying that out needs no tracing.
"""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning.plan import Plan

Route = tuple[Any, ...] | None
_PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.device)


class _Kept(nn.Module):
    """What a caller may read off a removed module: its plain attributes, and its children's; no tensors."""

    def __init__(self, removed: nn.Module | None = None) -> None:
        super().__init__()
        for name, value in vars(removed).items() if removed is not None else ():
            if not name.startswith("_") and _is_plain(value):
                setattr(self, name, value)
        for name, child in removed.named_children() if removed is not None else ():
            self.add_module(name, _Kept(child))


class Bypass(_Kept):
    """Stands where a block stood and returns ``returns``, an expression of the block's own arguments.

    >>> Bypass("(args[0], None)")(torch.ones(1), mask=None)
    (tensor([1.]), None)

    Attributes that a caller reads (``layer.self_attn.batch_first``, ``layer.attention_type``) stay readable: the
    sizes and flags of the ``removed`` block are kept, its tensors are not. Raises UserError where ``returns`` is
    no such expression.
    """

    def __init__(self, returns: str = "args[0]", removed: nn.Module | None = None) -> None:
        super().__init__(removed)
        self._returns, self._route = returns, parse(returns)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _follow(self._route, args, kwargs)

    def extra_repr(self) -> str:
        return self._returns


def parse(returns: str) -> Route:
    """``"(args[0], None)"`` as a nested route. Raises UserError; nothing is ever evaluated."""
    try:
        return _route_of(ast.parse(returns, mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise UserError(
            "this does not say what a removed block returns",
            value=returns,
            mend="take the plan again from the run that made it",
        ) from error


def _route_of(node: ast.expr) -> Route:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Subscript():
            return _path_of(node)
        case ast.Tuple(elts=parts):
            return ("tuple", *map(_route_of, parts))
        case ast.List(elts=parts):
            return ("list", *map(_route_of, parts))
    raise ValueError(ast.dump(node))


def _path_of(node: ast.expr) -> tuple[str | int, ...]:
    match node:
        case ast.Name(id="args" | "kwargs" as name):
            return (name,)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() | str() as key)):
            return (*_path_of(inner), key)
    raise ValueError(ast.dump(node))


def _follow(route: Route, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if route is None:
        return None
    kind, *rest = route
    if kind in ("tuple", "list"):
        parts = [_follow(part, args, kwargs) for part in rest]
        return tuple(parts) if kind == "tuple" else parts
    value: Any = args if kind == "args" else kwargs
    for key in rest:
        value = value[key]
    return value


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """All names of every module, parameter and buffer, by ``id``: what is shared has several."""
    names: dict[int, list[str]] = {}
    for name, thing in _everything(model):
        names.setdefault(id(thing), []).append(name)
    return names


def _everything(model: nn.Module) -> Iterable[tuple[str, nn.Module | Tensor]]:
    yield from model.named_modules(remove_duplicate=False)
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def is_inside(name: str, blocks: Iterable[str]) -> bool:
    """Whether the module or tensor ``name`` is one of ``blocks`` or belongs to one of them."""
    return any(name == block or name.startswith(block + ".") for block in blocks)


def own_parameters(block: nn.Module, names: Mapping[int, list[str]]) -> list[nn.Parameter]:
    """The parameters that go with ``block``: those with no name outside of it. ``names``: of the whole model."""
    here = names[id(block)]
    return [p for p in block.parameters() if all(is_inside(name, here) for name in names[id(p)])]


def silence(model: nn.Module, blocks: Iterable[str]) -> None:
    """Set the own parameters of ``blocks`` to zero, in place: the masked network that a bypass must equal."""
    names = names_of(model)
    for block in blocks:
        for parameter in own_parameters(model.get_submodule(block), names):
            parameter.data = torch.zeros_like(parameter.data)


def names_left(model: nn.Module, blocks: Iterable[str]) -> dict[int, list[str]]:
    """``names_of`` without the names that go when ``blocks`` go; what goes altogether has an empty list."""
    every = names_of(model)
    gone = [name for block in blocks for name in every[id(model.get_submodule(block))]]
    return {key: [name for name in names if not is_inside(name, gone)] for key, names in every.items()}


def edits_left(dense: nn.Module, plan: Plan) -> list[AttributeEdit]:
    """The edits of ``plan`` on modules that stay when its blocks go, under a name that stays."""
    left = names_left(dense, plan.bypassed)
    pairs = [(edit, left[id(dense.get_submodule(edit.module))]) for edit in plan.attributes]
    return [edit if edit.module in names else replace(edit, module=names[0]) for edit, names in pairs if names]


def check_bypasses(model: nn.Module, bypassed: Mapping[str, str]) -> None:
    """Raises UserError where ``model`` lacks a block, or a line is no expression of arguments."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, returns in bypassed.items():
        parse(returns)
        if not name or name not in modules:
            raise UserError(
                f"the plan removes the block {name!r}, which is not in this model",
                where=type(model).__name__,
                mend="construct the model with the arguments it had when the plan was made",
            )


def install(model: nn.Module, bypassed: Mapping[str, str]) -> None:
    """Replace the blocks, in place, under every name they have. Call ``check_bypasses`` first."""
    blocks = {name: model.get_submodule(name) for name in bypassed}
    _replace(model, {id(block): Bypass(bypassed[name], block) for name, block in blocks.items()})


@contextlib.contextmanager
def without(model: nn.Module, bypassed: Mapping[str, str]) -> Iterator[None]:
    """The blocks are bypassed for a while; afterwards the very same modules are back."""
    blocks = {name: model.get_submodule(name) for name in bypassed}
    detours = {name: Bypass(bypassed[name], block) for name, block in blocks.items()}
    try:
        _replace(model, {id(block): detours[name] for name, block in blocks.items()})
        yield
    finally:
        _replace(model, {id(detours[name]): block for name, block in blocks.items()})


def _replace(model: nn.Module, by_id: Mapping[int, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]


def put_back(model: nn.Module, bypassed: Iterable[str], dense: nn.Module) -> None:
    """Give ``model`` copies of the blocks of ``dense``, in place; what they share with the rest stays shared."""
    ours = dict(_everything(model))
    left = {key: names[0] for key, names in names_left(dense, bypassed).items() if names}
    shared: dict[int, Any] = {key: ours[name] for key, name in left.items() if name in ours}
    blocks = {name: copy.deepcopy(dense.get_submodule(name), dict(shared)) for name in bypassed}
    for name, block in blocks.items():
        block.train(model.get_submodule(name).training)
    _replace(model, {id(model.get_submodule(name)): block for name, block in blocks.items()})
