"""Which constructors named by a manifest may be called, and how to type the one that may not."""

from __future__ import annotations

import contextlib
import shlex
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.manifest import ModelSpec
from neuroprune.tasks.models import load_model


class NotConstructed(UserError):
    """The network cannot be had from the manifest; nothing is known to be wrong with the files."""


def verify_command(folder: Path, model: ModelSpec) -> str:
    """What to type so that ``model`` is constructed by the user's own word: complete, quoted for the shell."""
    words = ["neuroprune", "verify", str(folder), "--model", model.spec or "package.module:callable"]
    for name, value in model.kwargs.items():
        words += ["--arg", f"{name}={_as_yaml(value)}"]
    return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """On one line, as ``--arg`` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return str(text).removesuffix("\n").removesuffix("\n...")


def construct(model: ModelSpec, folder: Path) -> nn.Module:
    """The network that the manifest of the artifact ``folder`` names, if calling its constructor is harmless.

    An artifact may come from anybody; it must not make ``verify`` call ``os:system``. Raises UserError for what
    is no user's model, NotConstructed for a function that may be one or not, or that is not to be had here.
    """
    if model.spec is None:
        raise NotConstructed(
            "the manifest does not say how to construct the model",
            where=str(folder),
            value=f"class {model.class_name}",
            mend=f"name it: {verify_command(folder, model)}; or give model= in Python",
        )
    source, _, name = model.spec.rpartition(":")
    zoo = model.spec.split(":")[0] in ("timm", "torchvision")
    if not zoo and (_is_inside(source, folder) or source.split(".")[0] in sys.stdlib_module_names):
        raise UserError(
            "the manifest names a constructor that is no user's model",
            where=str(folder),
            value=model.spec,
            mend="do not trust this artifact: get it again from its source, or make it again",
        )
    try:
        harmless = zoo or _makes_network(_resolve(source, name))
        network = load_model(model.spec, kwargs=dict(model.kwargs)) if harmless else None
    except UserError as error:  # its code is elsewhere on this machine, or has another version
        again = f"name it as it is called here: {verify_command(folder, model)}"
        raise NotConstructed(error.what, where=error.where, value=error.value or model.spec, mend=again) from error
    if network is None:
        raise NotConstructed(
            "verify calls a constructor that the manifest names only if it is an nn.Module class or is "
            "annotated to return one",
            where=str(folder),
            value=model.spec,
            mend=f"annotate it (-> nn.Module), or name it yourself: {verify_command(folder, model)}",
        )
    return network


def _is_inside(source: str, folder: Path) -> bool:
    """Whether the artifact brings the code along."""
    if source.endswith(".py"):
        return folder.resolve() in Path(source).resolve().parents
    top = folder / source.split(".")[0]
    return top.is_dir() or top.with_suffix(".py").exists()


def _resolve(source: str, name: str) -> Any:
    from neuroprune.tasks.importing import find

    with _current_folder_importable():
        return find(source, name, "model")


def _makes_network(constructor: Any) -> bool:
    if isinstance(constructor, nn.Module):  # made at import; it is copied, not called
        return True
    if isinstance(constructor, type):
        return issubclass(constructor, nn.Module)
    try:
        made = typing.get_type_hints(constructor).get("return")
    except (TypeError, NameError):
        return False
    return isinstance(made, type) and issubclass(made, nn.Module)


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As ``load_model`` does: a model may lie in the folder that the user works in."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(Path.cwd()))
