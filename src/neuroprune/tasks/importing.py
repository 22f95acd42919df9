"""Things named by the user: ``package.module:callable`` or ``path/to/file.py:callable``."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from neuroprune.base.errors import NeuropruneError, UserError
from neuroprune.base.registry import nearest


def call(spec: str, kwargs: dict[str, Any], what: str) -> Any:
    """Import what ``spec`` names and call it with ``kwargs``; a ready-made ``nn.Module`` is copied instead.

    Raises UserError where the file, module or function is missing (with the nearest name), does not
    import, or raises; ``what`` ("model", "data set") says in messages what was wanted.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise UserError(
            f"cannot read the {what} {spec!r}", mend="write package.module:callable or path/to/file.py:callable"
        )
    folder = Path(source).resolve().parent if source.endswith(".py") else Path.cwd()
    with _importable(folder):  # also while it runs: a function may import its neighbours only then
        function = find(source, name, what)
        if isinstance(function, nn.Module):  # a network made at import: calling it would run it
            return copy.deepcopy(function)
        try:
            return function(**kwargs)
        except NeuropruneError:
            raise
        except Exception as error:
            raise UserError(
                f"the {what} {spec!r} raised {type(error).__name__}: {error}",
                where=_place(error, source),
                value=f"arguments {kwargs}" if kwargs else None,
                mend="make the callable run on its own first; --debug shows the traceback",
            ) from error


def import_code(spec: str) -> None:
    """Import the module or file that ``spec`` names a callable of; nothing for other specs (``digits``)."""
    source, _, name = spec.rpartition(":")
    if source.endswith(".py") or ("." in source and "/" not in source):
        folder = Path(source).resolve().parent if source.endswith(".py") else Path.cwd()
        with _importable(folder):
            find(source, name, "code")


def find(source: str, name: str, what: str) -> Callable[..., Any]:
    """The callable ``name`` of a module or file. Raises UserError with the nearest name in there."""
    module = _load_file(Path(source), what) if source.endswith(".py") else _load_module(source, what)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [n for n in dir(value) if not n.startswith("_") and callable(getattr(value, n, None))]
            guess = nearest(part, names)
            raise UserError(
                f"{source} has no {part!r}",
                where=source,
                mend=(f"did you mean {guess!r}? " if guess else "") + f"callables there: {_some(names)}",
            )
        value = getattr(value, part)
    if not callable(value):
        raise UserError(
            f"{source}:{name} cannot be called", value=type(value).__name__, mend="name a function or class"
        )
    function: Callable[..., Any] = value
    return function


def _some(names: list[str], count: int = 12) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(sorted(names)[:count]) + more) or "none"


def _load_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        here = [str(found) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        guess = nearest(str(path), here)
        raise UserError(
            f"there is no file {path} for the {what}",
            where=str(path.parent.resolve()),
            mend=f"did you mean {guess!r}?" if guess else "check the path; it is taken from the current folder",
        )
    # unique per path: two users' model.py must not meet in sys.modules, nor shadow an installed package
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    unique = f"_neuroprune_user_{digest}_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(unique, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(
            f"{path} cannot be imported as Python", where=str(path), value=path.suffix, mend="name a file NAME.py"
        )
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[unique] = module  # dataclasses and pickling look their module up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise _import_failed(str(path), what, error) from error
    return module


def _load_module(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not (name == missing or name.startswith(missing + ".")):
            raise _import_failed(name, what, error) from error
        raise UserError(
            f"there is no module {missing!r} for the {what}",
            where=name,
            mend="install it, run from the folder that holds it, or write path/to/file.py:callable",
        ) from error
    except Exception as error:
        raise _import_failed(name, what, error) from error


def _import_failed(source: str, what: str, error: Exception) -> UserError:
    return UserError(
        f"importing the {what} from {source} raised {type(error).__name__}: {error}",
        where=_place(error, source),
        mend="make it import on its own first; --debug shows the traceback",
    )


def _place(error: Exception, fallback: str) -> str:
    """File and line where the error arose."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else fallback


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules in ``folder`` be imported, as ``python file.py`` does, and no longer than needed."""
    text = str(folder)
    sys.path.insert(0, text)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(text)
