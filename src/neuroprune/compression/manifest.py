"""The artifact's manifest: its files with their hashes, how to construct the model, what inputs look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroprune.base.errors import UserError
from neuroprune.base.files import read_json, sha256
from neuroprune.export.structure import describe, rebuild
from neuroprune.tasks.task import tensors_in

SCHEMA = 1
SCHEMA_OF_HEADS = 2  # an older version must refuse such an artifact, not overlook that the head was replaced
NAME = "manifest.json"
_AGAIN = "get the artifact again from its source, or make it again"


@dataclass(frozen=True)
class ModelSpec:
    """How to construct the dense network: what ``tasks.models.load_model`` takes.

    ``spec`` is None where the network came as an object; verifying then needs the network again. ``head``: where
    the network went to other data, the layer (``module``) that was made anew with so many ``outputs``: what is
    constructed gets it before the plan is applied.
    """

    spec: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    class_name: str = ""
    head: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class InputSpec:
    """One input tensor: enough to make up inputs of its kind. ``batched``: dimension 0 is the batch."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    std: float
    batched: bool


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """``int8_error``: the int8 file's relative output error when it was written (None without such a file);
    ``best``: the file that was chosen, which ``run.py`` runs (None: it decides itself)."""

    model: ModelSpec
    inputs: tuple[InputSpec, ...]
    structure: Any
    preprocessing: Mapping[str, Any]
    versions: Mapping[str, str | None]
    files: Mapping[str, FileEntry]
    int8_error: float | None = None
    best: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with ``schema`` and ``seal``, a hash over all the rest (against accidents, not attackers)."""
        model = {key: value for key, value in asdict(self.model).items() if key != "head" or value}
        body = {
            "schema": SCHEMA_OF_HEADS if self.model.head else SCHEMA,
            "model": model,
            "inputs": [asdict(spec) | {"shape": list(spec.shape)} for spec in self.inputs],
            "structure": self.structure,
            "preprocessing": dict(self.preprocessing),
            "versions": dict(self.versions),
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "int8_error": self.int8_error,
            "best": self.best,
        }
        return body | {"seal": _seal(body)}


def read_manifest(folder: Path) -> tuple[Manifest, list[str]]:
    """The manifest in ``folder`` and what is wrong with it (other than its files' contents).

    Raises UserError when there is none, when it is unreadable, of a newer schema, lacks a part, or names a file
    outside the folder.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(
            f"this is not an artifact: there is no {NAME}",
            where=str(folder),
            mend="give the artifact folder of a finished run",
        )
    data = read_json(path)
    _check_schema(data, path)
    try:
        manifest = _parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{NAME} is damaged: a part is missing or is not what it should be",
            where=str(path),
            value=repr(error),
            mend=_AGAIN,
        ) from error
    for name in manifest.files:
        if not name or name in (".", "..", NAME) or any(mark in name for mark in "/\\:\0"):
            raise UserError(f"{NAME} names a file outside the artifact", where=str(path), value=name, mend=_AGAIN)
    return manifest, _problems(data, manifest)


def _check_schema(data: Any, path: Path) -> None:
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise UserError(
            f"{NAME} has no valid schema version", where=str(path), value=f"schema {schema!r}", mend=_AGAIN
        )
    if schema > SCHEMA_OF_HEADS:
        raise UserError(
            f"the artifact has schema {schema}, this version of neuroprune reads up to {SCHEMA_OF_HEADS}",
            where=str(path),
            value=schema,
            mend="install a newer neuroprune",
        )


def _parse(data: dict[str, Any]) -> Manifest:
    return Manifest(
        model=ModelSpec(**data["model"]),
        inputs=tuple(InputSpec(**{**row, "shape": tuple(int(n) for n in row["shape"])}) for row in data["inputs"]),
        structure=data["structure"],
        preprocessing=dict(data["preprocessing"]),
        versions=dict(data["versions"]),
        files={str(name): FileEntry(**entry) for name, entry in data["files"].items()},
        int8_error=None if data["int8_error"] is None else float(data["int8_error"]),
        best=None
        if data.get("best") is None
        else str(data["best"]),  # artifacts written before there was a choice lack it
    )


def _problems(data: dict[str, Any], manifest: Manifest) -> list[str]:
    known = {f.name for f in fields(manifest)} | {"schema", "seal"}
    problems = [f"unknown field {name!r}" for name in data if name not in known]
    body = {name: value for name, value in data.items() if name != "seal"}
    if data.get("seal") != _seal(body):
        problems.append("the seal does not match: the manifest was changed after it was written")
    if manifest.best is not None and manifest.best not in manifest.files:
        problems.append(f"the chosen file is not listed: {manifest.best!r}")
    return problems


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def entry_of(path: Path) -> FileEntry:
    return FileEntry(sha256(path), path.stat().st_size)


def describe_inputs(example_inputs: tuple[Any, ...]) -> tuple[tuple[InputSpec, ...], Any]:
    """What the inputs look like, and how the model's positional arguments nest. Raises UserError."""
    found = list(tensors_in(example_inputs))
    batch = next((t.shape[0] for t in found if t.ndim), None)
    return tuple(_describe_input(t, batch) for t in found), describe(example_inputs)


def _describe_input(tensor: Tensor, batch: int | None) -> InputSpec:
    values = tensor.detach().cpu().to(torch.float64)
    some = values.numel() > 0
    return InputSpec(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        low=float(values.min()) if some else 0.0,
        high=float(values.max()) if some else 0.0,
        mean=float(values.mean()) if some else 0.0,
        std=float(values.std(correction=0)) if some else 0.0,
        batched=tensor.ndim > 0 and tensor.shape[0] == batch,
    )


def made_up_inputs(specs: tuple[InputSpec, ...], structure: Any, *, batch: int, seed: int = 0) -> tuple[Any, ...]:
    """Positional arguments of the examples' kind: the same for the same ``seed``, on every machine."""
    generator = np.random.default_rng(seed)
    leaves = (_made_up(spec, generator, batch) for spec in specs)
    arguments: tuple[Any, ...] = rebuild(structure, leaves)
    return arguments


def _made_up(spec: InputSpec, generator: np.random.Generator, batch: int) -> Tensor:
    shape = (batch, *spec.shape[1:]) if spec.batched else spec.shape
    dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        values = generator.normal(spec.mean, spec.std, shape).clip(spec.low, spec.high)
    else:
        values = generator.integers(int(spec.low), int(spec.high) + 1, shape).astype(np.float64)
    return torch.from_numpy(np.asarray(values)).to(dtype)
