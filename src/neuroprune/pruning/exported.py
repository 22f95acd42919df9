"""The second tier: a model whose sizes are written into its code, as an exported graph that can be cut.

``torch.export`` makes every such number an argument of an operator; `neuroprune.graph.program` gathers them in one
table, and from there the first tier's engine does the rest. The result is no longer the user's class, and for
inference only.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from neuroprune.base.errors import UserError
from neuroprune.base.files import write_bytes
from neuroprune.base.modes import evaluation
from neuroprune.graph.calls import Call, as_calls, map_tensors, tensors_in
from neuroprune.graph.interpret import visible_layers
from neuroprune.graph.program import ExportedNet, Input, Program, Reader
from neuroprune.pruning.verify import relative_error

if TYPE_CHECKING:
    from neuroprune.pruning.cut import PruneResult

#: the same operators in the same order; float32 may be summed in another order all the same
_TOLERANCE = 1e-5
_FIRST_TIER = "cut the module itself, without tier='exported'"


def exported(model: nn.Module, example_inputs: Any) -> ExportedNet:
    """``model`` in evaluation mode as an exported graph; its parameters keep their names, and are copies.

    >>> net = exported(model, torch.randn(1, 3, 32, 32))                                    # doctest: +SKIP

    ``example_inputs``: one call, as for `neuroprune.prune`. The first dimension of the inputs stays free where the
    model lets it, all other sizes are those of the example. Inference only. Raises UserError when the model cannot
    be exported, the graph holds what cannot be looked into, or it does not compute what the model does.
    """
    calls = as_calls(example_inputs)
    if len(calls) > 1:
        raise UserError(
            "an exported graph is that of one call",
            value=f"{len(calls)} example calls",
            mend=f"give one of them, or {_FIRST_TIER}",
        )
    wide = _wider(model, calls[0])
    net = _fitting(model, wide, calls[0]) if wide is not None else None
    return net if net is not None else _checked(model, _net(model, calls[0], free=False), [calls[0]])


def _fitting(model: nn.Module, wide: Call, call: Call) -> ExportedNet | None:
    """With a free first dimension; None where the graph then is not right at both sizes."""
    try:
        return _checked(model, _net(model, wide, free=True), [wide, call])
    except UserError:
        return None


def _wider(model: nn.Module, call: Call) -> Call | None:
    """The call with one more example; None where the model does not take it."""
    wide: Call = map_tensors(lambda x: torch.cat([x, x[:1]]) if x.dim() else x, call)
    try:
        _outputs(model, wide)
    except Exception:
        return None  # a fixed batch size is the model's right
    return wide


def _net(model: nn.Module, call: Call, *, free: bool) -> ExportedNet:
    program = _export(copy.deepcopy(model), call, free=free)  # an export may leave traces in the module
    module: Any = program.module(check_guards=False)
    like = next((t for t in model.parameters() if t.is_floating_point()), None)
    reader = Reader(module.graph, like)
    own = {**dict(model.named_parameters(remove_duplicate=False)),
           **dict(model.named_buffers(remove_duplicate=False))}  # fmt: skip
    tensors = {path: _attribute(module, path) for path in reader.tensors.values() if path not in own} | own
    leaves = torch.utils._pytree.tree_leaves(call)
    inputs = tuple(_input(node, leaf) for node, leaf in zip(reader.inputs, leaves, strict=True))
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    names = _positional(model, len(call[0]))
    steps = Program(reader.steps, inputs, reader.outputs, in_spec, out_spec, reader.tensors, call, names)
    return ExportedNet(steps, reader.sizes, copy.deepcopy(tensors), set(tensors) - set(model.state_dict()))


def _positional(model: nn.Module, count: int) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    return tuple(named[:count] + [f"argument_{i}" for i in range(len(named), count)])


def _attribute(module: nn.Module, path: str) -> Tensor:
    """A tensor the graph holds beside the parameters. Raises UserError for a graph inside the graph."""
    holder, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(holder), name)
    if not isinstance(value, Tensor):
        raise UserError(
            "the exported graph holds something else than tensors",
            where=path,
            value=type(value).__name__,
            mend=_FIRST_TIER,
        )
    return value.detach()


def _input(node: Any, leaf: Any) -> Input:
    if not isinstance(leaf, Tensor):
        return Input(node.name, None, leaf)
    shape = tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)
    return Input(node.name, shape, None)


def _export(model: nn.Module, call: Call, *, free: bool) -> ExportedProgram:
    """``free``: the first dimension of all inputs that share its size may vary, as far as the model allows."""
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    batched = [x for x in tensors_in(call) if x.dim()]
    for tensor in batched if free else ():
        if tensor.shape[0] == batched[0].shape[0]:
            shapes[tensor] = {0: Dim.AUTO}
    args, kwargs = call
    with _quiet(), visible_layers(), evaluation(model):
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes if free else None)
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else repr(error)
            raise UserError(
                f"the model cannot be exported: {what}", where=type(model).__name__, mend=_FIRST_TIER
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What an export warns of concerns its own inside, or attributes that it puts back itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _checked(model: nn.Module, net: ExportedNet, calls: list[Call]) -> ExportedNet:
    """``net``, when it computes what ``model`` does. Raises UserError otherwise."""
    for call in calls:
        try:
            got, wanted = _outputs(net, call), _outputs(model, call)
        except UserError:
            raise
        except Exception as error:
            raise _differs(f"{type(error).__name__}: {error}") from error
        if [x.shape for x in got] != [x.shape for x in wanted]:
            raise _differs("the outputs have other shapes")
        worst = max((relative_error(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
        if worst > _TOLERANCE:
            raise _differs(f"relative error {worst:.1e}")
    return net


@contextlib.contextmanager
def _signature(net: ExportedNet) -> Iterator[None]:
    """The arguments by name for a while, which an export needs: ``forward`` takes whatever was exported."""
    program, run = net.graph_program, net.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    kind = inspect.Parameter
    named = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in program.positional]
    named += [kind(name, kind.KEYWORD_ONLY) for name in program.example[1]]
    forward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    try:
        net.__dict__["forward"] = forward
        yield
    finally:
        del net.__dict__["forward"]


def _differs(value: str) -> UserError:
    return UserError("the exported graph does not compute what the model does", value=value, mend=_FIRST_TIER)


def _outputs(model: nn.Module, call: Call) -> list[Tensor]:
    model = copy.deepcopy(model)  # a call may change its buffers
    with evaluation(model), visible_layers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        args, kwargs = map_tensors(torch.clone, call)
        return tensors_in(model(*args, **kwargs))


def save_exported(result: PruneResult, path: Path | str) -> None:
    """Write a second-tier result: ``model.pt2`` and ``plan.json`` in the folder ``path``, each whole or not.

    >>> save_exported(result, "runs/small")                                                 # doctest: +SKIP
    >>> torch.export.load("runs/small/model.pt2").module()                                  # doctest: +SKIP

    Nothing is written unless the program, loaded back, computes what the cut network does. Raises UserError for a
    first-tier result.
    """
    data = program_bytes(result.model)
    write_bytes(Path(path) / "model.pt2", data)
    result.plan.save(Path(path) / "plan.json")


def program_bytes(net: nn.Module) -> bytes:
    """The file that `torch.export.load` reads. Raises UserError for anything but an `ExportedNet`."""
    if not isinstance(net, ExportedNet):
        raise UserError(
            "only a second-tier result is saved as an exported program",
            where=type(net).__name__,
            mend="prune with tier='exported'; else save plan.json and the state dict",
        )
    call = net.graph_program.example
    shapes = [given.shape for given in net.graph_program.inputs if given.shape is not None]
    with _signature(net):
        program = _export(net, call, free=any(None in shape for shape in shapes))
    data, again = _serialised(program)
    args, kwargs = map_tensors(torch.clone, call)
    with torch.no_grad():
        got = tensors_in(again(*args, **kwargs))
    wanted = _outputs(net, call)
    if [x.shape for x in got] != [x.shape for x in wanted] or any(
        relative_error(a, b) > _TOLERANCE for a, b in zip(wanted, got, strict=True)
    ):
        raise _differs("after saving and loading")
    return data


def _serialised(program: ExportedProgram) -> tuple[bytes, nn.Module]:
    """The bytes, and the module that they load as. Raises UserError where torch.export cannot write a part."""
    file, log = io.BytesIO(), logging.getLogger("torch.export")
    with _quiet():
        level = log.level
        try:
            log.setLevel(logging.CRITICAL)  # what goes wrong is in the error
            torch.export.save(program, file)
            file.seek(0)
            return file.getvalue(), torch.export.load(file).module(check_guards=False)
        except Exception as error:
            raise UserError(
                f"the cut program cannot be saved: {type(error).__name__}: {error}",
                mend="let the model take and return tensors in tuples, lists and dicts only",
            ) from error
        finally:
            log.setLevel(level)
