"""Run a model once on fake tensors and carry labels through every operator it executes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.labels import Factors, arange, vector
from neuroprune.graph.records import Reason, Records, user_line, user_line_of
from neuroprune.graph.rules import RULES, OpCall, Rule
from neuroprune.graph.rules.elementwise import elementwise


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: untyped __init_subclass__
    """Dispatch mode that applies the operator rules; labels live beside the tensors, keyed by identity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records = Records()
        self.next_label = 1  # 0 is FIXED
        self.owners: list[tuple[str, int, int, int]] = []  # (tensor name, dim, first label, count)
        self.modules: list[str] = []
        self._factors: dict[int, tuple[Tensor, Factors]] = {}

    def own(self, name: str, tensor: Tensor) -> None:
        """Give every index of every dimension of a parameter or buffer a label of its own."""
        factors: Factors = ()
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                factors += (vector(arange(self.next_label, size), tensor.dim(), dim),)
                self.owners.append((name, dim, self.next_label, size))
                self.next_label += size
        self._factors[id(tensor)] = (tensor, factors)

    def factors_of(self, tensor: Tensor) -> Factors:
        held = self._factors.get(id(tensor))
        return held[1] if held is not None else ()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if outputs:
            with unset_fake_temporarily():
                self._apply(func, args, kwargs or {}, outputs)
        return result

    def _apply(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        labelled = {id(f): f for t in inputs for f in self.factors_of(t)}
        if not labelled:
            return
        name = func.overloadpacket.__name__
        op = OpCall(func, bind(func, args, kwargs), outputs, self.factors_of, self.records, self._reason(name))
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = elementwise
        if rule is None:
            op.complaint = "there is no rule for this operator"
        produced = self._run_rule(rule, op)
        for key, factor in labelled.items():
            if key not in op.settled:
                op.pin(factor.labels, op.complaint)
        for out, factors in zip(outputs, produced, strict=True):
            self._factors[id(out)] = (out, factors)

    @staticmethod
    def _run_rule(rule: Rule | None, op: OpCall) -> list[Factors]:
        """A rule that breaks on an argument it was not written for refuses; it does not break the trace."""
        nothing: list[Factors] = [() for _ in op.outputs]
        if rule is None:
            return nothing
        try:
            return rule(op)
        except Exception as error:
            op.settled.clear()
            op.complaint = f"the rule for this operator failed: {type(error).__name__}: {error}"
            return nothing

    def _reason(self, operator: str) -> Callable[[str], Reason]:
        module = self.modules[-1] if self.modules else ""
        where: list[str] = []  # looked up once, and only when something is pinned or tied

        def make(text: str) -> Reason:
            if not where:
                where.append(user_line())
            return Reason(operator, module, where[0], text)

        return make


def bind(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by schema name, defaults included."""
    bound: dict[str, Any] = {}
    for index, argument in enumerate(func._schema.arguments):
        if index < len(args):
            bound[argument.name] = args[index]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor, a tuple of positional or a dict of keyword arguments, as (args, kwargs)."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextlib.contextmanager
def module_stack(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the dotted name of the innermost running module on top of ``stack``.

    When a module raises, its name stays there, so that the error can say where.
    """
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        # Without always_call the hook does not run when the module raises, which is what leaves the name.
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def interpret(model: nn.Module, example_inputs: Any) -> LabelMode:
    """One fake forward pass under labels; outputs are pinned. Raises UserError when the model itself fails."""
    mode = LabelMode()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        mode.own(name, tensor)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        args, kwargs = tree_map(
            lambda x: fake.from_tensor(x.detach()) if isinstance(x, Tensor) else x, as_call(example_inputs)
        )
        with evaluation(model), module_stack(model, mode.modules), mode:
            output = run_users_model(model, mode, args, kwargs)
    for leaf in tensors_in(output):
        for factor in mode.factors_of(leaf):
            mode.records.pin(factor.labels, Reason("output", "", "", "reaches the model's output"))
    return mode


def run_users_model(model: nn.Module, mode: LabelMode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return model(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        inside = f" in module {mode.modules[-1]!r}" if mode.modules and mode.modules[-1] else ""
        data_dependent = "DataDependent" in type(error).__name__ or "data-dependent" in str(error)
        shapes = [tuple(x.shape) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
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


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts, dataclasses and mapping-like output objects."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            found += tensors_in(dict(vars(leaf)))
    return found
