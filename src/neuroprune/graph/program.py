"""A network as the list of its operators, every size in one table: what an exported graph is made into.

The integers of the table are attributes of a module like any other, so the trace knows their place, the solver
finds what each must become, a plan names them (``graph_sizes['view_3'][2]``) and surgery sets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from neuroprune.base.errors import UserError
from neuroprune.graph.records import is_users
from neuroprune.graph.sizes import HANDLERS

#: arguments of operators with sizes that are none: they stay in the program
_NO_SIZES = frozenset(
    "dim dims step stride padding dilation output_padding fill_value dtype cudnn_enabled".split()  # noqa: SIM905
)
_ARITHMETIC = frozenset(("add", "sub", "mul", "floordiv", "mod"))
#: they check what an exported graph was told about its inputs, and compute nothing
_CHECKS = ("_assert", "sym_constrain")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_ANOTHER_WAY = "cut the module itself, without tier='exported'"


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of an earlier step, or an input."""

    name: str


@dataclass(frozen=True, slots=True)
class Size:
    """Number ``index`` of the step's row in the table; ``negative``: with a minus (what counts from the end)."""

    index: int
    negative: bool


class _OwnType:
    """The type the network computes in: float32 as exported, float64 in a proof."""


class _OwnDevice:
    """The device the network is on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call. ``where``: ``file:line`` of the user's code; ``last``: values that nothing after it needs."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    where: str
    last: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """A leaf of the arguments: the sizes of a tensor (None: any), or the value that was exported."""

    name: str
    shape: tuple[int | None, ...] | None
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Steps in order; it never changes, so copies of a network share it.

    ``tensors``: name of an argument -> path of the parameter or buffer. ``example``: one call (args, kwargs);
    ``positional``: what the user's module calls the first of these.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Input, ...]
    outputs: Any
    in_spec: TreeSpec
    out_spec: TreeSpec
    tensors: Mapping[str, str]
    example: tuple[tuple[Any, ...], dict[str, Any]]
    positional: tuple[str, ...]

    def __deepcopy__(self, memo: Any) -> Program:
        return self


class ExportedNet(nn.Module):
    """Runs an exported graph; its parameters and buffers bear the names they had in the user's module.

    For inference only: the export has fixed what training would do differently (dropout, batch norm).
    """

    neuroprune_tier = "exported"

    def __init__(
        self,
        program: Program,
        sizes: dict[str, list[int]],
        tensors: Mapping[str, Tensor],
        transient: Collection[str] = (),
    ) -> None:
        """``transient``: names of buffers that do not belong into the state dict."""
        super().__init__()
        self.graph_program = program
        self.graph_sizes = sizes
        for path, tensor in tensors.items():
            self._hold(path, tensor, persistent=path not in transient)
        self.eval()

    def _hold(self, path: str, tensor: Tensor, *, persistent: bool) -> None:
        *modules, name = path.split(".")
        holder: nn.Module = self
        for part in modules:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if isinstance(tensor, nn.Parameter):
            holder.register_parameter(name, tensor)
        else:
            holder.register_buffer(name, tensor, persistent=persistent)

    def train(self, mode: bool = True) -> ExportedNet:
        """Raises UserError for ``mode=True``."""
        if mode:
            raise UserError(
                "an exported network is for inference only",
                where=type(self).__name__,
                mend="train the module first, or cut the module itself (tier='module') and train that",
            )
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the user's module in evaluation mode. Raises UserError for inputs of other sizes than exported."""
        program = self.graph_program
        values: dict[str, Any] = {name: _at(self, path) for name, path in program.tensors.items()}
        values |= _checked(program, args, kwargs)
        like = next((t for t in self.parameters() if t.is_floating_point()), None)
        for step in program.steps:
            values[step.name] = run_step(step, values, self.graph_sizes.get(step.name, ()), like)
            for name in step.last:
                values.pop(name, None)
        return tree_unflatten(_decoded(program.outputs, values, (), like), program.out_spec)


def run_step(step: Step, values: Mapping[str, Any], sizes: Sequence[int], like: Tensor | None) -> Any:
    """The result of one call. Records look for ``step`` in this frame: it knows the line of the user's code."""
    args, kwargs = (_decoded(part, values, sizes, like) for part in (step.args, step.kwargs))
    return step.function(*args, **kwargs)


def _at(net: nn.Module, path: str) -> Tensor:
    holder, _, name = path.rpartition(".")
    tensor: Tensor = getattr(net.get_submodule(holder), name)
    return tensor


def _checked(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The leaves of the arguments by name. The graph holds for these shapes and values alone."""
    order = [key for key in program.example[1] if key in kwargs]
    order += [key for key in kwargs if key not in order]
    leaves, spec = tree_flatten((args, {key: kwargs[key] for key in order}))
    if spec != program.in_spec:
        raise _misfit("its arguments are built in another way", f"{spec}, exported with {program.in_spec}")
    for expected, leaf in zip(program.inputs, leaves, strict=True):
        if expected.shape is None:
            if isinstance(leaf, Tensor) or leaf != expected.value:
                raise _misfit(f"{expected.name} is not {expected.value!r}", type(leaf).__name__)
        elif (
            not isinstance(leaf, Tensor)
            or leaf.dim() != len(expected.shape)
            or any(
                wanted is not None and size != wanted
                for size, wanted in zip(leaf.shape, expected.shape, strict=True)
            )
        ):
            shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise _misfit(f"{expected.name} is no tensor of shape {expected.shape} (None: any size)", str(shape))
    return {expected.name: leaf for expected, leaf in zip(program.inputs, leaves, strict=True)}


def _misfit(what: str, value: str) -> UserError:
    return UserError(
        f"the exported network cannot take these inputs: {what}",
        value=value,
        mend="call it as it was exported, or export it again with example inputs of this kind",
    )


def _decoded(value: Any, values: Mapping[str, Any], sizes: Sequence[int], like: Tensor | None) -> Any:
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, Size):
        return -sizes[value.index] if value.negative else sizes[value.index]
    if value is _OwnType or value is _OwnDevice:
        assert like is not None
        return like.dtype if value is _OwnType else like.device
    if isinstance(value, (list, tuple)):
        return type(value)(_decoded(item, values, sizes, like) for item in value)
    if isinstance(value, dict):
        return {key: _decoded(item, values, sizes, like) for key, item in value.items()}
    return value


class Reader:
    """Makes the steps and the table of sizes out of an exported graph."""

    def __init__(self, graph: fx.Graph, like: Tensor | None) -> None:
        self.sizes: dict[str, list[int]] = {}
        self._like = like
        nodes = [node for node in graph.nodes if not _is_check(node)]
        self.tensors = {node.name: str(node.target) for node in nodes if node.op == "get_attr"}
        self.inputs = [node for node in nodes if node.op == "placeholder"]
        last = _last_uses(nodes, set(self.tensors))
        self.steps = tuple(
            self._step(node, last.get(node.name, ()))
            for node in nodes
            if node.op not in ("get_attr", "placeholder", "output")
        )
        self.outputs = self._encoded(next(node for node in nodes if node.op == "output").args[0], None)

    def _step(self, node: fx.Node, last: tuple[str, ...]) -> Step:
        function, where = _function(node), _where(node)
        row: list[int] = []
        names = _names(node)
        args = tuple(self._encoded(a, row if names[i] else None) for i, a in enumerate(node.args))
        keywords = {k: self._encoded(v, row if _sized(node, k) else None) for k, v in node.kwargs.items()}
        if row:
            self.sizes[node.name] = row
        return Step(node.name, function, args, keywords, where, last)

    def _encoded(self, value: Any, row: list[int] | None) -> Any:
        """``row``: where whole numbers are written down; None: they stay."""
        if isinstance(value, fx.Node):
            return Ref(value.name)
        if type(value) is int and row is not None:
            row.append(abs(value))
            return Size(len(row) - 1, value < 0)
        if isinstance(value, (list, tuple)):
            items = [self._encoded(item, row) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self._encoded(item, row) for key, item in value.items()}
        if self._like is not None and isinstance(value, torch.dtype) and value == self._like.dtype:
            return _OwnType
        if self._like is not None and isinstance(value, torch.device) and value == self._like.device:
            return _OwnDevice
        return value


def _is_check(node: fx.Node) -> bool:
    """Assertions, and what only they use."""
    if node.op != "call_function":
        return False
    name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))
    if name.startswith(_CHECKS):
        return True
    return bool(node.users) and name in _COMPARISONS and all(_is_check(user) for user in node.users)


_COMPARISONS = frozenset(("eq", "ne", "ge", "gt", "le", "lt", "and_", "or_", "not_", "sym_not"))


def _last_uses(nodes: Sequence[fx.Node], keep: set[str]) -> dict[str, tuple[str, ...]]:
    last: dict[str, str] = {}
    for node in nodes:
        for used in node.all_input_nodes:
            last[used.name] = node.name
    drops: dict[str, tuple[str, ...]] = {}
    for used_name, user in last.items():
        if used_name not in keep:
            drops[user] = (*drops.get(user, ()), used_name)
    return drops


def _names(node: fx.Node) -> list[bool]:
    """Per positional argument: whole numbers in it are sizes."""
    if isinstance(node.target, OpOverload):
        names = [argument.name for argument in node.target._schema.arguments]
        return [_sized(node, name) for name in names[: len(node.args)]]
    return [_sized(node, "") for _ in node.args]


def _sized(node: fx.Node, argument: str) -> bool:
    if isinstance(node.target, OpOverload):
        return node.target._opname in HANDLERS and argument not in _NO_SIZES
    return getattr(node.target, "__name__", "") in _ARITHMETIC


def _function(node: fx.Node) -> Callable[..., Any]:
    """What to call. Raises UserError for what the labels cannot look into."""
    target: Any = node.target
    if target is torch.ops.aten.sym_size.int:
        return _size
    if target in (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default):
        return torch.clone
    module = getattr(target, "__module__", "")
    if node.op == "call_function" and (
        isinstance(target, OpOverload) or module in ("_operator", "math") or target in _SYMBOLIC
    ):
        return target  # type: ignore[no-any-return]
    raise UserError(
        f"the exported graph calls {getattr(target, '__name__', target)}, which hides what it computes",
        where=_where(node) or None,
        value=f"{node.op} {node.name}",
        mend=_ANOTHER_WAY,
    )


_SYMBOLIC = (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_ite, torch.sym_not)


def _size(value: Tensor, dim: int) -> int:
    return value.shape[dim]


def _where(node: fx.Node) -> str:
    """``file:line`` of the innermost frame of the user's code, from what the export has noted."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in frames if is_users(file)]
    return own[-1] if own else ""
