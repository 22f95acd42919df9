"""Integers that remember where they came from, so that sizes written in Python can be corrected after a cut.

A **tree** is an int, a leaf ``("attribute", number)`` or ``("count", number)`` (how many labels of a vector are
kept), or ``(operator, left, right)``. :class:`SizeInt` is an ``int`` that carries a tree through arithmetic;
what Python turns into a plain int on the way (``int(a / b)``, numpy) has no tree and counts as a literal; the
book is told, so that a refusal can say so.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

Tree = int | float | tuple[Any, ...]

ATTRIBUTE, COUNT = "attribute", "count"


def _ceil_div(a: Any, b: Any) -> Any:
    return -(-a // b)


OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
    "/": operator.truediv, "**": operator.pow, "ceil/": _ceil_div,
    "floor": lambda a, _: math.floor(a), "ceil": lambda a, _: math.ceil(a), "sqrt": lambda a, _: math.sqrt(a),
    "round": lambda a, _: round(a),
}  # fmt: skip


def is_leaf(tree: Tree) -> bool:
    return isinstance(tree, tuple) and tree[0] in (ATTRIBUTE, COUNT)


def leaves(tree: Tree) -> Iterator[tuple[str, int]]:
    """All leaves, with repetitions."""
    if isinstance(tree, tuple):
        if tree[0] in (ATTRIBUTE, COUNT):
            yield tree
        else:
            yield from leaves(tree[1])
            yield from leaves(tree[2])


def substitute(tree: Tree, replace: Callable[[tuple[str, int]], Tree]) -> Tree:
    """``tree`` with every leaf replaced."""
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in (ATTRIBUTE, COUNT):
        return replace(tree)
    return (tree[0], substitute(tree[1], replace), substitute(tree[2], replace))


def evaluate(tree: Tree, value: Callable[[tuple[str, int]], Any]) -> Any:
    """The number a tree stands for. Raises ArithmeticError where it has none (a division by zero, say)."""
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in (ATTRIBUTE, COUNT):
        return value(tree)
    return OPERATORS[tree[0]](evaluate(tree[1], value), evaluate(tree[2], value))


def _with_tree(symbol: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    compute = OPERATORS[symbol]

    def forward(self: Any, other: Any) -> Any:
        return _combined(symbol, compute(_plain(self), _plain(other)), self, other)

    def reflected(self: Any, other: Any) -> Any:
        return _combined(symbol, compute(_plain(other), _plain(self)), other, self)

    return (
        lambda self, other: forward(self, other) if isinstance(other, (int, float)) else NotImplemented,
        lambda self, other: reflected(self, other) if isinstance(other, (int, float)) else NotImplemented,
    )


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, SizeFloat) else value.__index__() if isinstance(value, int) else value


def _combined(symbol: str, value: Any, left: Any, right: Any) -> Any:
    tree = (symbol, tree_of(left), tree_of(right))
    book = getattr(left, "book", None) or getattr(right, "book", None)
    if isinstance(value, int):
        return SizeInt.of(value, tree, book)
    return SizeFloat.of(value, tree, book) if isinstance(value, float) else value


def tree_of(value: Any) -> Tree:
    """The tree of a number; a number without one stands for itself."""
    tree: Tree = value.tree if isinstance(value, (SizeInt, SizeFloat)) else value
    return tree


class _Sized:
    """What SizeInt and SizeFloat share. ``book`` is told of comparisons and of what is lost (it may be None)."""

    tree: Tree
    book: Any

    __add__, __radd__ = _with_tree("+")
    __sub__, __rsub__ = _with_tree("-")
    __mul__, __rmul__ = _with_tree("*")
    __floordiv__, __rfloordiv__ = _with_tree("//")
    __mod__, __rmod__ = _with_tree("%")
    __truediv__, __rtruediv__ = _with_tree("/")
    __pow__, __rpow__ = _with_tree("**")

    @classmethod
    def of(cls, value: Any, tree: Tree, book: Any) -> Self:
        made: Self = cls(value)  # type: ignore[call-arg]
        made.tree, made.book = tree, book
        return made

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> Any:
        return _combined("-", -_plain(self), 0, self)

    def __floor__(self) -> Any:
        return _combined("floor", math.floor(_plain(self)), self, 0)

    def __trunc__(self) -> Any:
        value = _plain(self)
        return _combined("floor", math.floor(value), self, 0) if value >= 0 else math.trunc(value)

    def __int__(self) -> int:
        """Python wants a plain int here, whatever is returned."""
        number = int(_plain(self))
        if self.book is not None:
            self.book.lose(number)
        return number

    def __ceil__(self) -> Any:
        return _combined("ceil", math.ceil(_plain(self)), self, 0)

    def __round__(self, digits: int | None = None) -> Any:
        return _combined("round", round(_plain(self)), self, 0) if digits is None else round(_plain(self), digits)

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        return (type(_plain(self)), (_plain(self),))  # a pickle of it is a plain number

    def __eq__(self, other: object) -> bool:
        equal = bool(_plain(self) == (_plain(other) if isinstance(other, (int, float)) else other))
        if equal and self.book is not None and not isinstance(other, bool):
            self.book.met(self.tree, tree_of(other))
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(_plain(self))


class SizeInt(_Sized, int):  # type: ignore[misc]  # rounding keeps the tree
    """An ``int`` with a tree."""


class SizeFloat(_Sized, float):  # type: ignore[misc]
    """A ``float`` with a tree: a quotient or a power of sizes (attention's scale, say)."""
