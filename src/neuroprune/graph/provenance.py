"""Watch the sizes that the model's Python code hands to PyTorch, and write down what each must equal.

A function mode sees every call before its integers are lost: ``x.shape`` answers with integers tied to labels,
attributes bear their place (:mod:`attributes`), and each view, split, slice, norm and convolution yields an
equation *size given == labels kept*. A number with a past that reaches a call of another kind must stay as it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional
from torch import Tensor
from torch._C import _DisableTorchDispatch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from neuroprune.graph.attributes import Attributes
from neuroprune.graph.expressions import COUNT, SizeFloat, SizeInt, Tree
from neuroprune.graph.labels import Vector
from neuroprune.graph.records import user_line

if TYPE_CHECKING:
    from neuroprune.graph.interpret import LabelMode

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_CONSTRUCTORS = _device_constructors()
_TRANSPARENT = (torch.nn.functional, torch.functional, torch._tensor)
_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@dataclass
class Call:
    """One call of a torch function with a size handler, after it was run."""

    book: ProvenanceMode
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    def argument(self, index: int, key: str, default: Any = None) -> Any:
        return self.args[index] if index < len(self.args) else self.kwargs.get(key, default)

    def sizes(self, index: int, *keys: str) -> Sequence[Any]:
        """Sizes given one by one or as one tuple, from position ``index`` on or by keyword.

        A number of numpy's is nobody's literal: -1, which says nothing, and the oracle decides.
        """
        rest = self.args[index:] or tuple(self.kwargs[key] for key in keys if key in self.kwargs)
        if len(rest) >= 1 and isinstance(rest[0], (tuple, list)):
            rest = tuple(rest[0])
        return [-1 if isinstance(x, np.integer) else x for x in rest if isinstance(x, (int, np.integer))]


Handler = Callable[[Call], None]
HANDLERS: dict[str, Handler] = {}


def sizes_of(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: this function writes the equations of the torch functions called ``names``."""

    def add(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, function))
        return function

    return add


class ProvenanceMode(TorchFunctionMode):
    """Function mode above a :class:`LabelMode`."""

    def __init__(self, labels: LabelMode, stand_in: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.labels = labels
        self.attributes = Attributes(self, stand_in)
        self._on_meta = stand_in is not None
        self._lost: dict[int, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs) if kwargs else {}
        if func == _SHAPE:
            return self.shape(args[0])
        name = name_of(func)
        if name == "size":
            shape = self.shape(args[0])
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            return shape if dim is None else shape[dim]
        if name in ("numel", "nelement"):
            return math.prod(self.shape(args[0]))
        if self._on_meta and func in _CONSTRUCTORS:
            kwargs["device"] = "meta"  # like everything else in this run
        composite = COMPOSITES.get(name)
        if composite is not None:
            return composite(self, func, args, kwargs)
        self.labels.last = None
        result = func(*args, **kwargs)
        handler = HANDLERS.get(name)
        if handler is not None:
            with _DisableTorchDispatch():  # our own arithmetic on labels is no operation of the model
                handler(Call(self, name, args, kwargs, result))
        else:
            self.unchanged(args, kwargs)
        return result

    @contextlib.contextmanager
    def visible(self) -> Iterator[None]:
        """Active, and torch's own Python functions are looked into instead of being one call each."""
        patched = [(m, name, getattr(m, name)) for m in _TRANSPARENT for name in _CHECKS if hasattr(m, name)]
        square_root, product = math.sqrt, np.prod
        try:
            for module, name, _ in patched:
                setattr(module, name, lambda *_: False)
            math.sqrt = _sqrt(square_root)
            np.prod = _prod(product, self)
            with self:
                yield
        finally:
            math.sqrt, np.prod = square_root, product
            for module, name, original in patched:
                setattr(module, name, original)

    def shape(self, tensor: Tensor) -> Any:
        """The tensor's shape, its labelled sizes tied to their labels."""
        labels = self.labels.labels_of(tensor)
        shape = tensor.shape
        if not labels:
            return shape
        return torch.Size(
            SizeInt.of(size, self.count(labels[dim]), self) if dim in labels else size
            for dim, size in enumerate(shape)
        )

    def count(self, vector: Vector) -> Tree:
        """The leaf "how many of these labels are kept"."""
        return (COUNT, self.labels.records.vector(vector))

    def tree(self, value: Any) -> Tree:
        """The tree of a number of this trace; any other number stands for itself."""
        if isinstance(value, (SizeInt, SizeFloat)):
            return value.tree if value.book is self else plain(value)
        number: Tree = value
        return number

    def met(self, left: Tree, right: Tree) -> None:
        """The model compared two equal numbers: they must stay equal, or it may go another way."""
        if left != right:
            self.equate(left, right, "==", "is compared with a size")

    def equate(self, left: Tree, right: Tree, operator: str, text: str) -> None:
        if left != right:
            self.labels.records.equate(left, right, lambda: self.labels.reason(operator)(text))

    def lose(self, number: int) -> None:
        """A size became this number in a way that cannot be followed."""
        where = user_line()
        if where:
            self._lost[number] = Path(where).name

    def unchanged(self, *values: Any) -> None:
        """No number with a past in ``values`` may change."""
        for value in values:
            if isinstance(value, (SizeInt, SizeFloat)):
                self.equate(self.tree(value), plain(value), "size", "is used as a number")
            elif isinstance(value, (tuple, list)):
                self.unchanged(*value)
            elif isinstance(value, dict):
                self.unchanged(*value.values())
            elif isinstance(value, slice):
                self.unchanged(value.start, value.stop, value.step)

    def equals(self, size: Any, vector: Vector | None, operator: str) -> None:
        """``size``, as given by the model's code, must be the number of kept labels of ``vector``."""
        if vector is None:
            self.unchanged(size)
        elif plain(size) != vector.size:  # it counts something else than these labels: both must stay
            self.unchanged(size)
            self.labels.records.pin(vector, self.labels.reason(operator)("meets a size that is not its own"))
        else:
            text = "a size of this dimension is computed here"
            if not isinstance(size, SizeInt) or size.book is not self:
                text = self._untied(plain(size))
            self.equate(self.tree(size), self.count(vector), operator, text)

    def _untied(self, size: int) -> str:
        if size not in self._lost:
            return f"the size {size} is written in the code"
        how = f"int() or numpy, {self._lost[size]}"
        return f"the size {size} is computed in a way that cannot be followed ({how}): write // or math.prod"


def name_of(func: Callable[..., Any]) -> str:
    """``view`` for ``torch.Tensor.view`` and for ``torch.ops.aten.view.default``, whose arguments are the same."""
    return func._opname if isinstance(func, OpOverload) else getattr(func, "__name__", "")


def plain(value: Any) -> Any:
    if isinstance(value, SizeFloat):
        return float.__add__(value, 0.0)
    return value.__index__() if isinstance(value, SizeInt) else value


def _sqrt(original: Callable[[Any], float]) -> Callable[[Any], float]:
    def sqrt(value: Any) -> float:
        result = original(value)
        if isinstance(value, (SizeInt, SizeFloat)):
            return SizeFloat.of(result, ("sqrt", value.tree, 0), value.book)
        return result

    return sqrt


def _prod(original: Callable[..., Any], book: ProvenanceMode) -> Callable[..., Any]:
    """numpy's product of sizes is a number of numpy's: a model may rely on that, so it is only noted."""

    def prod(a: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(a, *args, **kwargs)
        if isinstance(a, (tuple, list)) and any(isinstance(size, SizeInt) for size in a):
            book.lose(int(result))
        return result

    return prod


Composite = Callable[[ProvenanceMode, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
COMPOSITES: dict[str, Composite] = {}


def in_one_piece(book: ProvenanceMode, name: str, arguments: dict[str, Any], run: Callable[[], Any]) -> Any:
    """Run a composite operator unseen by the label mode, then apply the rule called ``name`` to it as a whole."""
    mode = book.labels
    mode.paused, before = True, mode.paused
    try:
        result = run()
    finally:
        mode.paused = before
    outputs = [t for t in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(t, Tensor)]
    if not mode.paused:
        with _DisableTorchDispatch():
            mode.follow(name, None, arguments, outputs)
    return result
