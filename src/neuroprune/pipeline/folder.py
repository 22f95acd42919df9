"""The run folder: one folder per run, every finished step in a folder of its own, nothing half written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from neuroprune.base.errors import UserError
from neuroprune.base.files import file_in_the_way, read_json, write_json, write_text

SCHEMA = 1
_STEP = re.compile(r"(\d{2,})-([a-z0-9_]+)")


class RunFolder:
    """``recipe.yaml state.json journal.jsonl steps/NN-name/ undo/ artifact/ report.html results.json``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: IO[str] | None = None

    @property
    def steps(self) -> Path:
        return self.root / "steps"

    @property
    def undo(self) -> Path:
        return self.root / "undo"

    @property
    def artifact(self) -> Path:
        return self.root / "artifact"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    def open(self, identity: dict[str, Any], recipe_text: str, *, resume: bool) -> None:
        """Take the folder for a run; ``identity`` is what the run depends on (recipe, model, data, version).

        A folder that holds anything is refused, unless ``resume`` and it holds a run of the same identity.
        ``resume`` on an empty or absent folder starts the run. Raises UserError.
        """
        self._make()
        self._take_lock()
        try:
            self._take(identity, recipe_text, resume)
        except BaseException:
            self.close()
            raise

    def _take(self, identity: dict[str, Any], recipe_text: str, resume: bool) -> None:
        if self.state.exists():
            self._continue(identity, resume)
            return
        self._refuse_foreign(recipe_text)
        write_text(self.root / "recipe.yaml", recipe_text)
        self.steps.mkdir(exist_ok=True)
        write_json(self.state, {"schema": SCHEMA, **identity})  # last: from here on the folder holds a run

    def _refuse_foreign(self, recipe_text: str) -> None:
        """A journal to replay, this recipe, and what a run killed at its very start leaves may lie here."""
        harmless = {".lock", "journal.jsonl", "steps"}
        recipe = self.root / "recipe.yaml"
        if recipe.is_file() and recipe.read_bytes() == recipe_text.encode():
            harmless.add(recipe.name)
        found = sorted(p.name for p in self.root.iterdir())
        foreign = [n for n in found if n not in harmless and not (n.startswith(".") and n.endswith(".tmp"))]
        if foreign:
            raise UserError(
                "the output folder is not empty and holds no run",
                where=str(self.root),
                value=", ".join(foreign[:5]),
                mend="choose another --out or empty the folder",
            )

    def close(self) -> None:
        """Give the folder back to other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _make(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".{uuid.uuid4().hex[:8]}.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            file = file_in_the_way(self.root)
            reason = f"{file} is a file, not a folder" if file else error.strerror or str(error)
            raise UserError(
                f"cannot write into the output folder: {reason}",
                where=str(self.root.resolve().parent),
                value=str(self.root),
                mend="choose a folder you may write to with --out",
            ) from error

    def _take_lock(self) -> None:
        """Two processes in one folder would mix their steps. The lock dies with its process."""
        lock = (self.root / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UserError(
                "another process is at work in this folder",
                where=str(self.root),
                mend="wait for it to end, or choose another --out",
            ) from error
        self._lock = lock

    def _continue(self, identity: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                "the output folder holds another run",
                where=str(self.root),
                mend="add --resume to go on with it, choose another --out, or delete the folder",
            )
        known = read_json(self.state)
        if known.get("schema") != SCHEMA:
            raise UserError(
                f"the run has schema {known.get('schema')}, this version reads {SCHEMA}",
                where=str(self.state),
                mend="resume it with the version that started it",
            )
        ours: dict[str, Any] = json.loads(json.dumps(identity))
        changed = list(_differences({k: v for k, v in known.items() if k != "schema"}, ours))
        if changed:
            key, before, after = changed[0]
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(
                f"cannot resume: {key} is not what the run began with{more}",
                where=str(self.root),
                value=f"{before!r} before, {after!r} now",
                mend="restore it, or start a new run in another --out",
            )

    def finished(self) -> list[str]:
        """Names (``NN-name``) of the finished steps, in order; without gaps."""
        names = sorted((p.name for p in self.steps.iterdir() if _STEP.fullmatch(p.name)), key=_number)
        return [name for i, name in enumerate(names, start=1) if _number(name) == i]

    def clean(self) -> None:
        """Remove what a killed run left half written, and steps that follow one whose folder is gone.

        Working folders stay: the checkpoints in them are what an interrupted step goes on from.
        """
        finished = set(self.finished())
        for path in self.steps.iterdir():
            done = path.name.removesuffix(".work") in finished and path.name.endswith(".work")
            stray = _STEP.fullmatch(path.name) and path.name not in finished
            if ".tmp-" in path.name or done or stray:
                shutil.rmtree(path, ignore_errors=True)

    def work(self, name: str) -> Path:
        """The working folder of an unfinished step: a stable name, so its checkpoints are found again."""
        return self.steps / f"{name}.work"

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder; it becomes ``steps/NN-name`` in one rename when the block ends well."""
        temporary = self.steps / f"{name}.tmp-{uuid.uuid4().hex[:4]}"
        try:
            temporary.mkdir(parents=True)
            yield temporary
            sync_tree(temporary)
            temporary.rename(self.steps / name)
            _sync(self.steps)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.work(name), ignore_errors=True)

    def record(self, name: str) -> dict[str, Any]:
        """record.json of a finished step. Raises UserError when it is damaged."""
        record: dict[str, Any] = read_json(self.steps / name / "record.json")
        return record


def sync_tree(folder: Path) -> None:
    """Force every file under ``folder``, and the folder itself, to the disk."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _number(name: str) -> int:
    return int(name.split("-", 1)[0])


def _differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ between two JSON values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (left, right) in enumerate(zip(before, after, strict=True), start=1):
            yield from _differences(left, right, f"{path}.{i}")
    elif before != after:
        yield path, before, after
