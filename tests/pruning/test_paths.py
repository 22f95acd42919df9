"""Paths below a module: what can be read, what is changed in place, what is rebuilt, and what is refused."""

from __future__ import annotations

import copy
import types
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.pruning import paths

Shape = namedtuple("Shape", "heads width")


@dataclass(frozen=True)
class Frozen:
    heads: int = 8


@dataclass
class Config:
    heads: int = 8
    frozen: Frozen = field(default_factory=Frozen)
    widths: list[int] = field(default_factory=lambda: [16, 32])


class Slotted:
    __slots__ = ("heads",)

    def __init__(self) -> None:
        self.heads = 8


class Block(nn.Module):
    steps: ClassVar[list[int]] = [2, 4]  # one list for all instances
    table: ClassVar[dict[str, tuple[int, int]]] = {"a": (8, 16)}
    scale = 3

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 8
        self.split_sizes = [16, 48]
        self.sizes = ((1, 2, 3), [4, 5])
        self.shape = Shape(8, 64)
        self.size = torch.Size([8, 64])
        self.named = {"a": [8], 3: (1, (2, 9))}
        self.config = Config()
        self.slotted = Slotted()
        self.made_of = 8
        self.inner = nn.LayerNorm((8, 4))

    @property
    def computed(self) -> int:
        return self.made_of * 2

    @property
    def settable(self) -> int:
        return self.made_of

    @settable.setter
    def settable(self, value: int) -> None:
        self.made_of = value


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("num_heads", 8),
        ("split_sizes[1]", 48),
        ("split_sizes[-1]", 48),
        ("sizes[0][2]", 3),
        ("sizes[1][0]", 4),
        ("shape.heads", 8),
        ("shape[1]", 64),
        ("size[0]", 8),
        ("named['a'][0]", 8),
        ('named["a"][0]', 8),
        ("named[3][1][1]", 9),
        ("config.heads", 8),
        ("config.frozen.heads", 8),
        ("config.widths[0]", 16),
        ("slotted.heads", 8),
        ("settable", 8),
        ("inner.normalized_shape[1]", 4),
        ("steps[1]", 4),
        ("table['a'][1]", 16),
        ("scale", 3),
    ],
)
def test_a_value_is_set_and_nothing_else(path: str, before: int) -> None:
    block, other = Block(), Block()
    kinds = {name: type(value) for name, value in vars(block).items()}
    everything = contents(block)
    assert paths.get(block, path) == before
    put_back = paths.remember(paths.check(block, path))
    paths.set_(block, path, 77)
    assert paths.get(block, path) == 77
    assert contents(other) == everything, "another instance changed as well"
    assert {name: type(value) for name, value in vars(block).items() if name in kinds} == kinds
    changed = contents(block)
    assert changed != everything
    paths.set_(block, path, before)
    assert contents(block) == everything
    paths.set_(block, path, 77)
    put_back()
    assert contents(block) == everything
    assert set(vars(block)) == set(kinds)


def contents(block: Block) -> dict[str, Any]:
    """Every value that the paths of this file can reach, as plain data."""
    own = {name: copy.deepcopy(value) for name, value in vars(block).items() if not name.startswith("_")}
    own["slotted"] = block.slotted.heads
    return own | {"steps": list(block.steps), "table": dict(block.table), "scale": block.scale} | {
        "normalized_shape": block.inner.normalized_shape
    }  # fmt: skip


def test_lists_dicts_and_objects_stay_the_same_objects() -> None:
    block = Block()
    held = (block.split_sizes, block.named, block.named["a"], block.config, block.config.frozen, block.sizes[1])
    for path in ("split_sizes[0]", "named['a'][0]", "config.heads", "config.frozen.heads", "sizes[1][1]"):
        paths.set_(block, path, 5)
    now = (block.split_sizes, block.named, block.named["a"], block.config, block.config.frozen, block.sizes[1])
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert held[3].heads == held[4].heads == 5


def test_tuples_keep_their_class() -> None:
    block = Block()
    paths.set_(block, "shape.heads", 4)
    paths.set_(block, "size[0]", 4)
    assert block.shape == Shape(4, 64)
    assert isinstance(block.shape, Shape)
    assert isinstance(block.size, torch.Size)
    assert block.size == (4, 64)


def test_the_same_object_behind_two_modules_is_one_place() -> None:
    first, second = Block(), Block()
    second.config = first.config
    assert paths.locate(first, "config.heads").identity == paths.locate(second, "config.heads").identity
    assert paths.locate(first, "num_heads").identity != paths.locate(second, "num_heads").identity
    assert paths.locate(first, "sizes[0][1]").identity != paths.locate(first, "sizes[0][2]").identity


@pytest.mark.parametrize(
    "path",
    [
        "",
        " a",
        "a.",
        "a[",
        "a[b]",
        "a[1:2]",
        "a b",
        "1",
        "f()",
        "a[[1]]",
        "[0]",
        "a + 1",
        "__class__",
        "a.__dict__",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(UserError, match="cannot read the path") as caught:
        paths.get(Block(), path)
    assert "config.num_heads" in str(caught.value.mend)


@pytest.mark.parametrize(
    ("path", "says", "value"),
    [
        ("num_head", "Block has no num_head", "num_heads"),
        ("split_sizes[2]", r"split_sizes \(list\) has no \[2\]", "2 items"),
        ("named['b']", r"named \(dict\) has no \['b'\]", "keys: 'a', 3"),
        ("config.head", r"config \(Config\) has no head", "heads"),
        ("num_heads[0]", r"num_heads \(int\) has no \[0\]", "no items"),
        ("sizes['a']", r"sizes \(tuple\) has no \['a'\]", "2 items"),
    ],
)
def test_a_missing_part_is_named(path: str, says: str, value: str) -> None:
    for call in (paths.get, lambda root, p: paths.set_(root, p, 1), paths.check):
        with pytest.raises(UserError, match=says) as caught:
            call(Block(), path)
        assert value in str(caught.value.value)
        assert caught.value.mend


def test_what_cannot_be_changed_is_refused_before_it_is_tried() -> None:
    block = Block()
    block.text = "abc"
    block.fixed = types.MappingProxyType({"a": 1})
    block.kind = Config
    block.function = lambda x: x
    block.function.heads = 1
    for path, says in {
        "computed": "a property of Block without a setter",
        "text[0]": "str takes no new items",
        "fixed['a']": "mappingproxy takes no new items",
        "kind.heads": "type Config is shared by every network",
        "function.heads": "function <lambda> is shared by every network",
    }.items():
        before = contents(Block())
        for call in (paths.check, lambda root, p: paths.set_(root, p, 1)):
            with pytest.raises(UserError, match=says) as caught:
                call(block, path)
            assert caught.value.mend
        assert contents(Block()) == before
    assert block.text == "abc"
    assert Config.heads == 8


def test_an_object_that_refuses_the_value_says_so() -> None:
    class Strict(nn.Module):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "heads" and value == 3:
                raise ValueError("heads must be even")
            super().__setattr__(name, value)

    strict = Strict()
    strict.heads = 4
    with pytest.raises(UserError, match=r"Strict\.heads cannot be changed.*heads must be even"):
        paths.set_(strict, "heads", 3)
    assert strict.heads == 4


NESTED = st.recursive(
    st.integers(0, 9),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b c", "d'e"]) | st.integers(0, 3), inner, min_size=1, max_size=2)
    ),
    max_leaves=12,
)


def leaves(value: Any, path: str) -> list[str]:
    if isinstance(value, int):
        return [path]
    keys = value if isinstance(value, dict) else range(len(value))
    return [leaf for key in keys for leaf in leaves(value[key], f"{path}[{key!r}]")]


def replaced(value: Any, keys: list[Any], new: int) -> Any:
    """The slow truth: the whole structure built anew."""
    if not keys:
        return new
    if isinstance(value, dict):
        return {k: replaced(v, keys[1:], new) if k == keys[0] else v for k, v in value.items()}
    return type(value)(replaced(v, keys[1:], new) if i == keys[0] else v for i, v in enumerate(value))


@given(value=NESTED, data=st.data())
def test_any_leaf_of_any_structure(value: Any, data: st.DataObject) -> None:
    root = types.SimpleNamespace(value=copy.deepcopy(value))
    path = data.draw(st.sampled_from(leaves(value, "value")))
    keys = [step.key for step in paths.parse(path)[1:]]
    put_back = paths.remember(paths.check(root, path))
    paths.set_(root, path, 99)
    assert root.value == replaced(value, keys, 99)
    put_back()
    assert root.value == value
