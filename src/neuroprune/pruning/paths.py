"""Values below a module, by path: ``num_heads``, ``split_sizes[1]``, ``config.num_heads``, ``table['a'][0]``.

A path is written as in Python: attributes by name, items by a whole number or a quoted key. Setting a value
changes lists, dicts and objects in place and rebuilds tuples around it. What other networks hold as well (an
attribute of a class) is copied onto the module first, so that cutting one network never changes another.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence, Sized
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest

#: copying a network does not copy these: whatever they hold belongs to every network
_SHARED = (type, ModuleType, FunctionType)
_SAME_MODEL = "construct the model with the arguments it had when the plan was made"


class Step(NamedTuple):
    """One part of a path: ``.key`` or, for an ``item``, ``[key]``."""

    key: Any
    item: bool

    def __str__(self) -> str:
        return f"[{self.key!r}]" if self.item else f".{self.key}"


class Place(NamedTuple):
    """Where a value is set: ``step`` of ``holder`` is what changes; ``below`` lies inside what is rebuilt."""

    holder: Any
    step: Step
    below: tuple[Step, ...]

    @property
    def identity(self) -> Hashable:
        """Equal for two paths to the same value (a config that several modules hold); valid while both live."""
        return id(self.holder), self.step, self.below


@functools.lru_cache(maxsize=4096)
def parse(path: str) -> tuple[Step, ...]:
    """Raises UserError for anything but attributes and items with constant keys."""
    try:
        steps = tuple(_steps(ast.parse(path, mode="eval").body))
        hash(steps)  # a list as a key cannot be looked up
    except (SyntaxError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read the path {path!r}",
            value=path,
            mend="write it as in Python: num_heads, split_sizes[1], config.num_heads or table['a'][0]",
        ) from error
    return steps


def _steps(node: ast.expr) -> Iterator[Step]:
    if isinstance(node, ast.Subscript):
        yield from _steps(node.value)
        yield Step(ast.literal_eval(node.slice), item=True)
    elif isinstance(node, ast.Attribute):
        yield from _steps(node.value)
        yield _attribute(node.attr)
    elif isinstance(node, ast.Name):
        yield _attribute(node.id)
    else:
        raise ValueError("no attribute and no item")


def _attribute(name: str) -> Step:
    if name.startswith("__"):  # a plan is data from elsewhere; it has no business in Python's own machinery
        raise ValueError("an attribute of Python itself")
    return Step(name, item=False)


def get(root: object, path: str) -> Any:
    """The value at ``path`` below ``root``. Raises UserError for a bad path and for a part that is missing."""
    value: Any = root
    for number, step in enumerate(parse(path)):
        value = _read(value, step, path, number)
    return value


def set_(root: object, path: str, value: object) -> None:
    """Put ``value`` at ``path``, in place; tuples (named ones and ``torch.Size`` too) around it are rebuilt.

    Raises UserError, before anything is changed, where `check` does, and when the object refuses the value.
    """
    place = check(root, path)
    new = _rebuilt(_peek(place.holder, place.step), place.below, value) if place.below else value
    try:
        _write(place.holder, place.step, new)
    except (AttributeError, TypeError, ValueError) as error:
        raise _unwritable(root, path, f"setting it raised {type(error).__name__}: {error}") from error


def check(root: object, path: str) -> Place:
    """The place that ``path`` leads to. Raises UserError where `set_` could not change it; changes nothing."""
    place = locate(root, path)
    holder, step, below = place
    if isinstance(holder, _SHARED):
        raise _unwritable(root, path, f"{_called(holder)} is shared by every network of the program")
    if not step.item:
        held = inspect.getattr_static(type(holder), step.key, None)
        if isinstance(held, property) and held.fset is None:
            raise _unwritable(root, path, f"it is a property of {type(holder).__name__} without a setter")
    value: Any = holder
    for inner in (step, *below):
        if inner.item and not isinstance(value, tuple) and not hasattr(type(value), "__setitem__"):
            raise _unwritable(root, path, f"{type(value).__name__} takes no new items")
        value = _peek(value, inner)
    return place


def locate(root: object, path: str) -> Place:
    """The innermost object that is changed in place, and what is rebuilt inside it. Raises UserError as `get`."""
    steps = parse(path)
    holder, step, below = root, steps[0], list[Step]()
    value, shared = _read(root, step, path, 0), _of_class(root, step)
    for number, following in enumerate(steps[1:], start=1):
        if shared or isinstance(value, tuple):
            below.append(following)
        else:
            holder, step, below = value, following, []
        inner = _read(value, following, path, number)
        shared = shared or _of_class(value, following)
        value = inner
    return Place(holder, step, tuple(below))


def remember(place: Place) -> Callable[[], None]:
    """A function that puts the place back as it is now, around any ``__setattr__`` of the holder's class."""
    holder, step, _ = place
    if not step.item and hasattr(holder, "__dict__"):
        return functools.partial(put_back_dict, vars(holder), dict(vars(holder)))
    return functools.partial(_write, holder, step, _peek(holder, step))


def put_back_dict(target: MutableMapping[Any, Any], content: Mapping[Any, Any]) -> None:
    """``target``, the same object, with exactly this content in this order (of parameters, say)."""
    if [id(key) for key in target] != [id(key) for key in content]:  # keys may be tensors, which have no plain ==
        target.clear()
    target.update(content)


def _read(value: Any, step: Step, path: str, number: int) -> Any:
    try:
        return _peek(value, step)
    except (AttributeError, LookupError, TypeError) as error:
        before = "".join(map(str, parse(path)[:number])).lstrip(".")
        owner = f"{before} ({type(value).__name__})" if before else type(value).__name__
        raise UserError(
            f"{owner} has no {str(step).lstrip('.')}", where=path, value=_holds(value, step), mend=_SAME_MODEL
        ) from error


def _peek(value: Any, step: Step) -> Any:
    return value[step.key] if step.item else getattr(value, step.key)


def _write(holder: Any, step: Step, value: object) -> None:
    dataclass = getattr(type(holder), "__dataclass_params__", None)
    if step.item:
        holder[step.key] = value
    elif dataclass is not None and dataclass.frozen:
        # In place all the same: another module that holds this object must see the new size too.
        object.__setattr__(holder, step.key, value)
    else:
        setattr(holder, step.key, value)


def _rebuilt(value: Any, steps: Sequence[Step], new: object) -> Any:
    """A copy of ``value`` with ``new`` at ``steps`` below it."""
    if not steps:
        return new
    first, *rest = steps
    inner = _rebuilt(_peek(value, first), rest, new)
    if isinstance(value, tuple):
        return _tuple_with(value, first, inner)
    fresh = copy.copy(value)
    _write(fresh, first, inner)
    return fresh


def _tuple_with(value: tuple[Any, ...], step: Step, new: object) -> tuple[Any, ...]:
    kind: Any = type(value)
    items = list(value)
    items[step.key if step.item else kind._fields.index(step.key)] = new
    return kind._make(items) if hasattr(kind, "_make") else kind(items)  # type: ignore[no-any-return]


def _of_class(owner: object, step: Step) -> bool:
    """Whether the attribute was found on the class of ``owner``: what it holds is every instance's."""
    if step.item or step.key in getattr(owner, "__dict__", {}):
        return False
    held = inspect.getattr_static(type(owner), step.key, None)
    return held is not None and not hasattr(type(held), "__set__")  # properties and slots hold their own


def _holds(value: object, step: Step) -> str:
    """What there is instead of the part that is missing."""
    if not step.item:
        guess = nearest(str(step.key), [name for name in dir(value) if not name.startswith("_")])
        return f"the nearest name is {guess!r}" if guess else f"an object of class {type(value).__name__}"
    if isinstance(value, Mapping):
        return f"keys: {', '.join(map(repr, list(value)[:10]))}"
    return f"{len(value)} items" if isinstance(value, Sized) else f"{type(value).__name__}, which has no items"


def _called(value: object) -> str:
    return f"{type(value).__name__} {getattr(value, '__name__', '')}".strip()


def _unwritable(root: object, path: str, why: str) -> UserError:
    return UserError(
        f"{type(root).__name__}.{path} cannot be changed: {why}",
        where=path,
        mend="keep the size as a plain attribute of the module, or keep its layers whole with keep=[...]",
    )
