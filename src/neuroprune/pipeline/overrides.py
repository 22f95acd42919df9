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
    return set_value(data, dotted.strip(), _value(value, text), f"--set {text}", None, marks)


def set_value(
    data: dict[str, Any], dotted: str, value: Any, said: str, where: str | None, marks: dict[Path, str]
) -> dict[str, Any]:
    """As `apply_override`, with the value itself; ``said``: what the user wrote, and ``where`` in a file."""
    result = copy.deepcopy(data)
    path: list[str | int] = []
    here: Any = result
    words = dotted.split(".")
    if words[0] == "steps" and len(words) > 1:
        index, name = _find_step(result.get("steps"), words[1], said)
        options = result["steps"][index][name]
        result["steps"][index] = {name: {} if options is None else options}
        here, path, words = result["steps"][index][name], ["steps", index, name], words[2:]
        if not words:
            raise UserError(f"{said} names no option of the step", mend=f"write steps.{name}.OPTION=VALUE")
    for word in words[:-1]:
        here = _descend(here, word, said)
        path.append(word)
    if not isinstance(here, dict):
        raise UserError(f"{said}: {'.'.join(words[:-1])} holds a plain value", mend="name a key above it")
    here[words[-1]] = value
    marks[(*path, words[-1])] = where or said
    return result


def profile_of(data: dict[str, Any], name: str | None, marks: dict[Path, str], file: str) -> dict[str, Any]:
    """Take ``profiles`` out of a recipe's data; the changes of the one called ``name`` (none without a name).

    Raises UserError for a profile that is not there, and for profiles that are no mappings of dotted keys.
    """
    profiles = data.pop("profiles", None) or {}
    where = marks.get(("profiles",), file)
    if not isinstance(profiles, dict) or not all(isinstance(changes, dict) for changes in profiles.values()):
        raise UserError(
            "profiles are names with the keys they change",
            where=where,
            mend="write 'fast: {steps.train.epochs: 3}'",
        )
    if name is None:
        return {}
    if name not in profiles:
        guess = nearest(name, profiles)
        raise UserError(
            f"the recipe has no profile {name!r}",
            where=where,
            mend=(f"did you mean {guess!r}? " if guess else "") + f"its profiles: {', '.join(profiles) or 'none'}",
        )
    return dict(profiles[name])


def _descend(here: Any, word: str, said: str) -> Any:
    if not isinstance(here, dict):
        raise UserError(f"{said}: nothing lies under {word!r}", mend="check the dotted path")
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


def _find_step(steps: Any, word: str, said: str) -> tuple[int, str]:
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
        raise UserError(f"{said}: the step {word!r} stands {len(found)} times", mend=f"name one: {numbers}")
    guess = nearest(word, names)
    raise UserError(
        f"{said}: the recipe has no step {word!r}",
        mend=(f"did you mean {guess!r}? " if guess else "") + f"its steps: {', '.join(names)}",
    )
