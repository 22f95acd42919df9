"""YAML that remembers where every key stands, so that a wrong recipe is answered with file and line."""

from __future__ import annotations

from typing import Any, cast

import yaml

from neuroprune.base.errors import UserError

#: the way from the document's root to a value: keys and list positions
Path = tuple[str | int, ...]


def load_marked(text: str, name: str) -> tuple[Any, dict[Path, str]]:
    """The plain data of a YAML document, and ``file:line`` for the path of each key and list item.

    Raises UserError on bad syntax, on a key that stands twice, and on keys that are no strings.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        marks: dict[Path, str] = {}
        return (None if node is None else _plain(node, (), name, loader, marks)), marks
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, name) from error
    except yaml.YAMLError as error:
        raise UserError(
            f"{name} is not valid YAML: {error}", where=name, mend="save it as plain UTF-8 text"
        ) from error
    finally:
        loader.dispose()


def _syntax_error(error: yaml.MarkedYAMLError, name: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark is not None else ""
    return UserError(
        f"{name} is not valid YAML: {error.problem or error.context}",
        where=f"{name}{line}",
        mend="mind the indentation: a list of steps looks like '  - train: {epochs: 3}'",
    )


def _plain(node: yaml.Node, path: Path, name: str, loader: yaml.SafeLoader, marks: dict[Path, str]) -> Any:
    marks.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, name, loader, marks)
    if isinstance(node, yaml.SequenceNode):
        items = cast("list[yaml.Node]", node.value)
        return [_plain(item, (*path, i), name, loader, marks) for i, item in enumerate(items)]
    return loader.construct_object(node)


def _mapping(
    node: yaml.MappingNode, path: Path, name: str, loader: yaml.SafeLoader, marks: dict[Path, str]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise UserError(f"the key {key!r} is not a word", where=where, mend="put it in quotes")
        if key in result:
            raise UserError(f"the key {key!r} stands twice", where=where, mend="remove one of the two")
        marks[(*path, key)] = where
        result[key] = _plain(value_node, (*path, key), name, loader, marks)
    return result
