"""``--set key=value``: change one value of a recipe from the command line."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.pipeline.marked_yaml import Path


def apply_override(data: dict[str, Any], text: str, marks: dict[Path, str]) -> dict[str, Any]:
    """A copy of ``data`` with one value replaced; the new path is marked as ``--set text``.

    Keys are joined by dots. Under ``steps`` the next word is a step's name, or its number (from 1) where the
    name stands several times: ``steps.train.epochs=3``, ``steps.2.epochs=3``. The value is read as YAML.
    Raises UserError for a text without ``=``, an unknown or ambiguous step, and a path through a plain value.
    """
    dotted, sign, value = text.partition("=")
    if not sign or not dotted.strip():
        raise UserError(f"cannot read --set {text}", mend="write --set key=value, e.g. --set steps.train.epochs=3")
    result = copy.deepcopy(data)
    path: list[str | int] = []
    here: Any = result
    words = dotted.strip().split(".")
    if words[0] == "steps" and len(words) > 1:
        index, name = _find_step(result.get("steps"), words[1], text)
        options = result["steps"][index][name]
        result["steps"][index] = {name: {} if options is None else options}
        here, path, words = result["steps"][index][name], ["steps", index, name], words[2:]
        if not words:
            raise UserError(f"--set {text} names no option of the step", mend=f"write steps.{name}.OPTION=VALUE")
    for word in words[:-1]:
        here = _descend(here, word, text)
        path.append(word)
    if not isinstance(here, dict):
        raise UserError(f"--set {text}: {'.'.join(words[:-1])} holds a plain value", mend="name a key above it")
    here[words[-1]] = _value(value, text)
    marks[(*path, words[-1])] = f"--set {text}"
    return result


def _descend(here: Any, word: str, text: str) -> Any:
    if not isinstance(here, dict):
        raise UserError(f"--set {text}: nothing lies under {word!r}", mend="check the dotted path")
    if here.get(word) is None:
        here[word] = {}
    return here[word]


def _value(value: str, text: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(
            f"cannot read the value of --set {text}", value=value, mend="quote it as in YAML"
        ) from error


def _find_step(steps: Any, word: str, text: str) -> tuple[int, str]:
    """Position and name of the step meant by ``word``; the list's items become single-key mappings."""
    items = steps if isinstance(steps, list) else []
    for i, item in enumerate(items):
        items[i] = {item: None} if isinstance(item, str) else item
    names = [next(iter(item)) if isinstance(item, dict) and item else "?" for item in items]
    if word.isdigit() and 1 <= int(word) <= len(names):
        return int(word) - 1, names[int(word) - 1]
    found = [i for i, name in enumerate(names) if name == word]
    if len(found) == 1:
        return found[0], word
    if found:
        numbers = ", ".join(f"steps.{i + 1}" for i in found)
        raise UserError(f"--set {text}: the step {word!r} stands {len(found)} times", mend=f"name one: {numbers}")
    guess = nearest(word, names)
    raise UserError(
        f"--set {text}: the recipe has no step {word!r}",
        mend=(f"did you mean {guess!r}? " if guess else "") + f"its steps: {', '.join(names)}",
    )
