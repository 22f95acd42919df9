"""Run a model once on tensors without data and carry labels through every operator it executes."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation, training_branches
from neuroprune.graph.attributes import Attributes
from neuroprune.graph.calls import as_calls, map_tensors, tensors_in
from neuroprune.graph.labels import NO_LABELS, Labels, Vector
from neuroprune.graph.provenance import ProvenanceMode
from neuroprune.graph.records import Reason, Records, user_line, user_line_of
from neuroprune.graph.rules import RULES, OpCall, Rule
from neuroprune.graph.rules.elementwise import elementwise
from neuroprune.graph.shortcuts import SHORTCUTS
from neuroprune.graph.sizes import HANDLERS as _HANDLERS  # noqa: F401  # importing it fills the table

_KEY = "_neuroprune_labels"
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: untyped __init_subclass__
    """Dispatch mode that applies the operator rules; a tensor bears its labels as a Python attribute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records = Records()
        self.owners: list[tuple[str, int, int, int]] = []  # (tensor name, dim, first label, count)
        self.modules: list[str] = []
        self.ran: set[str] = set()  # modules that were called
        self.idle = False  # some layer never was
        self.paused = False
        self.digest = 0  # of the operators that met labels: equal digests, equal numbering of labels
        self.on_meta = False
        self.last: OpCall | None = None  # the operator followed last: sizes.py asks what its arguments count
        self._owned: list[Tensor] = []

    def own(self, name: str, tensor: Tensor) -> None:
        """Give every index of every dimension of a parameter or buffer a label of its own."""
        labels: dict[int, Vector] = {}
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                self.owners.append((name, dim, self.records.next_label, size))
                labels[dim] = self.records.fresh(size)
        self._owned.append(tensor)
        self.label(tensor, labels)

    def disown(self) -> None:
        """Take the labels off the model's own tensors, which outlive the trace."""
        for tensor in self._owned:
            tensor.__dict__.pop(_KEY, None)

    def label(self, tensor: Tensor, labels: Labels) -> None:
        tensor.__dict__[_KEY] = (self, labels)

    def labels_of(self, tensor: Tensor) -> Labels:
        """``{dim: labels [size]}``; empty for a tensor of another trace, or of none."""
        held = tensor.__dict__.get(_KEY)
        return held[1] if held is not None and held[0] is self else NO_LABELS

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.paused and is_composite(func):
            with self:
                return func._op_dk(_COMPOSITE, *args, **(kwargs or {}))
        if func is torch.ops.aten.index.Tensor:
            args = _with_constant_masks(args)
        shortcut = SHORTCUTS.get(func) if self.on_meta else None
        result = func(*args, **(kwargs or {})) if shortcut is None else shortcut(*args, **(kwargs or {}))
        if not self.paused:
            outputs = _tensors((result,))
            if outputs:
                with unset_fake_temporarily():
                    self.follow(func.overloadpacket.__name__, func, bind(func, args, kwargs or {}), outputs)
        return result

    def follow(
        self, name: str, func: OpOverload | None, arguments: dict[str, Any], outputs: list[Tensor]
    ) -> OpCall | None:
        """Apply the rule of one operator; None when none of its inputs bears labels."""
        # taken now: an operator may write in place
        held = [(tensor, labels) for tensor in _tensors(arguments.values()) if (labels := self.labels_of(tensor))]
        if not held:
            return None
        op = OpCall(name, func, arguments, outputs, self.labels_of, self.records, self.reason(name))
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None and func is not None and _is_pointwise(func):
            rule = elementwise
        if rule is None:
            op.complaint = "there is no rule for this operator"
        produced = self._run_rule(rule, op)
        for tensor, labels in held:
            for dim, vector in labels.items():
                if (id(tensor), dim) not in op.settled:
                    op.pin(vector, op.complaint)
        for out, labels in zip(outputs, produced, strict=True):
            self.label(out, labels)
        self.digest = hash((self.digest, name, self.records.next_label))
        self.last = op
        self.after(op)
        return op

    def after(self, op: OpCall) -> None:
        """For subclasses: the operator was run and its outputs bear their labels."""

    @staticmethod
    def _run_rule(rule: Rule | None, op: OpCall) -> list[Labels]:
        """A rule that breaks on an argument it was not written for refuses; it does not break the trace."""
        nothing: list[Labels] = [NO_LABELS for _ in op.outputs]
        if rule is None:
            return nothing
        try:
            return rule(op)
        except Exception as error:
            op.settled.clear()
            op.complaint = f"the rule for this operator failed: {type(error).__name__}: {error}"
            return nothing

    def reason(self, operator: str) -> Callable[[str], Reason]:
        module = self.modules[-1] if self.modules else ""
        where: list[str] = []  # looked up once, and only when something is pinned or tied

        def make(text: str) -> Reason:
            if not where:
                where.append(user_line())
            return Reason(operator, module, where[0], text)

        return make


@functools.cache
def is_composite(func: OpOverload) -> bool:
    """PyTorch itself makes this operator out of others.

    Usually it has done so before we see anything, but not in inference mode, nor for tensors made in it. Only the
    dispatcher is asked: ``func.decompose`` would also take apart what otherwise arrives whole (batch norm).
    """
    known = torch._C._dispatch_has_kernel(func._name)  # operators of TorchScript (prim::device) are not
    return known and torch._C._dispatch_has_kernel_for_dispatch_key(func._name, _COMPOSITE.name)


def _with_constant_masks(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A boolean mask that is a buffer with data selects the same entries at every call: as their numbers."""
    indices: list[Any] = []
    for index in args[1]:
        constant = isinstance(index, Tensor) and not isinstance(index, FakeTensor) and not index.is_meta
        if constant and index.dtype in (torch.bool, torch.uint8):
            with unset_fake_temporarily():
                indices += list(index.nonzero(as_tuple=True))
        else:
            indices.append(index)
    return (args[0], indices, *args[2:])


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Tensors among an operator's arguments or results, which are nested in lists and tuples at most."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found


def bind(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by schema name, defaults included."""
    bound: dict[str, Any] = {}
    for index, (name, has_default, default) in enumerate(_arguments(func)):
        if index < len(args):
            bound[name] = args[index]
        elif name in kwargs:
            bound[name] = kwargs[name]
        elif has_default:
            bound[name] = default
    return bound


@functools.cache
def _arguments(func: OpOverload) -> list[tuple[str, bool, Any]]:
    """Name, whether there is a default, and the default: asked of the schema once."""
    return [(a.name, a.has_default_value(), a.default_value) for a in func._schema.arguments]


@functools.cache
def _is_pointwise(func: OpOverload) -> bool:
    return torch.Tag.pointwise in func.tags


@contextlib.contextmanager
def module_stack(model: nn.Module, stack: list[str], ran: set[str]) -> Iterator[None]:
    """Keep the dotted name of the innermost running module on top of ``stack``, and all names in ``ran``.

    When a module raises, its name stays there, so that the error can say where.
    """
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        name = names.get(id(module))
        if name is not None:
            stack.append(name)
            ran.add(name)

    def leave(module: nn.Module, *_: Any) -> None:
        if id(module) in names:
            stack.pop()

    # for all modules at once: two hooks on each cost more than what most layers do here
    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def visible_layers() -> Iterator[None]:
    """PyTorch's fused attention is off: its one operator hides what the layer does."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def interpret(model: nn.Module, example_inputs: Any) -> tuple[LabelMode, Attributes]:
    """One forward pass without arithmetic per example call, under labels; outputs are pinned.

    On the meta device, which is fast; where the model does something a tensor without data cannot (mixing devices,
    say), on fake tensors, which know more. Raises UserError when the model itself fails. The model is left as it
    was, caches included.
    """
    calls = as_calls(example_inputs)
    try:
        return _interpret(model, calls, _on_meta(model))
    except UserError:
        with _quiet("torch._subclasses.fake_tensor"):  # it prints a traceback, and raises it too
            return _interpret(model, calls, None)


def _interpret(model: nn.Module, calls: list[Any], stand_ins: _StandIns | None) -> tuple[LabelMode, Attributes]:
    mode = LabelMode()
    mode.on_meta = stand_ins is not None
    fake = FakeTensorMode(allow_non_fake_inputs=True) if stand_ins is None else contextlib.nullcontext()
    convert = stand_ins or (lambda x: fake.from_tensor(x.detach()))  # type: ignore[union-attr]
    with labelled(model, mode, stand_ins) as sizes:
        for call in calls:
            with fake:
                args, kwargs = map_tensors(convert, call)
                _pin_output(mode, watched(model, mode, sizes, args, kwargs))
        mode.idle = _idle(model, mode.ran)
        digest = mode.digest
        with contextlib.suppress(UserError):  # a model may want other inputs in training
            for call in calls if mode.idle else ():
                with fake:
                    args, kwargs = map_tensors(convert, call)
                    _pin_output(mode, watched(model, mode, sizes, args, kwargs, training=True))
        mode.digest = digest
    return mode, sizes.attributes


def _idle(model: nn.Module, ran: set[str]) -> bool:
    """Some layer with parameters of its own did not run: an auxiliary head that only training has, perhaps.

    An exported graph is for inference only.
    """
    if hasattr(type(model), "neuroprune_tier"):
        return False
    modules = model.named_modules()
    return any(name not in ran and any(p is not None for p in m._parameters.values()) for name, m in modules)


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


class _StandIns:
    """Tensors without data in place of others, one for one."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._made:
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            if isinstance(tensor, nn.Parameter):
                meta = nn.Parameter(meta, requires_grad=False)
            self._made[id(tensor)] = (tensor, meta)
        return self._made[id(tensor)][1]


def _on_meta(model: nn.Module) -> _StandIns | None:
    """Stand-ins, unless the model holds tensors that only their own class understands."""
    plain = (Tensor, nn.Parameter, nn.Buffer)
    tensors = [*model.parameters(), *model.buffers()]
    return _StandIns() if all(type(t) in plain and t.layout is torch.strided for t in tensors) else None


@contextlib.contextmanager
def labelled(model: nn.Module, mode: LabelMode, stand_ins: _StandIns | None = None) -> Iterator[ProvenanceMode]:
    """Parameters and buffers bear labels, attributes know their places; afterwards all is as it was."""
    sizes = ProvenanceMode(mode, stand_ins)
    try:
        with sizes.attributes.installed(model):
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                mode.own(name, tensor)
            yield sizes
    finally:
        mode.disown()


def watched(
    model: nn.Module,
    mode: LabelMode,
    sizes: ProvenanceMode,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool = False,
) -> Any:
    """One call of a labelled model, every operator and every size seen; ``training``: the way it takes then."""
    mode.modules.clear()
    way = training_branches(model) if training else evaluation(model)
    with way, visible_layers(), module_stack(model, mode.modules, mode.ran), mode, sizes.visible():
        return run_users_model(model, mode, args, kwargs)


def _pin_output(mode: LabelMode, output: Any) -> None:
    for leaf in tensors_in(output):
        for vector in mode.labels_of(leaf).values():
            mode.records.pin(vector, Reason("output", "", "", "reaches the model's output"))


def run_users_model(model: nn.Module, mode: LabelMode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return model(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        inside = f" in module {mode.modules[-1]!r}" if mode.modules and mode.modules[-1] else ""
        data_dependent = "DataDependent" in type(error).__name__ or "data-dependent" in str(error)
        shapes = [tuple(x.shape) for x in tensors_in((args, kwargs))]
        raise UserError(
            "the model's control flow depends on the values of its input, so one trace cannot describe it"
            if data_dependent
            else f"the model fails on the example inputs{inside}: {type(error).__name__}: {error}",
            where=user_line_of(error) or None,
            value=f"example inputs of shape {shapes}",
            mend="move the value-dependent branch out of the model"
            if data_dependent
            else "pass example inputs of the shape and type the model is used with",
        ) from error
