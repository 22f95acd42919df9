"""The state of a training run on disk: whole or absent, and without pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, read_json, save_tensors, sha256, write_json
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.config import EpochRecord, FitConfig
from neuroprune.recover.hooks import Hook
from neuroprune.tasks.task import Task, tensor_bytes

_INDEX = "checkpoint.json"
_SCHEMA = 1


def run_identity(
    model: nn.Module,
    task: Task,
    config: FitConfig,
    teacher: nn.Module | None,
    plan: Plan | None = None,
    hook: Hook | None = None,
) -> dict[str, str]:
    """What must be equal for a checkpoint to be gone on from: settings, data, architecture, teacher, plan,
    hook."""
    layout = {name: [str(t.dtype), list(t.shape)] for name, t in named_tensors(model).items()}
    return {
        "settings": _digest(json.dumps(config.to_json(), sort_keys=True).encode()),
        "data": task.digest(),
        "architecture": _digest(json.dumps(layout, sort_keys=True).encode()),
        "hook": "" if hook is None else hook.identity(),
        "teacher": "" if teacher is None else _digest(*map(tensor_bytes, named_tensors(teacher).values())),
        "plan": "" if plan is None else _digest(json.dumps(plan.to_json(), sort_keys=True).encode()),
    }


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class Checkpoint:
    """A folder that holds the last finished epoch.

    The tensors get a file of their own name first; the index, replaced by one rename, then points to it;
    only then does the older file go. So a kill at any moment leaves one whole checkpoint.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder, self.identity = folder, dict(identity)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        records: list[EpochRecord],
        best: Mapping[str, Tensor] | None = None,
        hook: Hook | None = None,
    ) -> None:
        """``best``: the weights to go back to. Raises UserError when the folder cannot be written; the older
        checkpoint is whole then."""
        file = self.folder / f"epoch-{records[-1].epoch:05d}.safetensors"
        kept = {f"best/{name}": tensor for name, tensor in (best or {}).items()}
        if hook is not None:
            kept |= {f"hook/{name}": value for name, value in hook.state().items()}
        save_tensors(file, _pack(model, optimizer) | kept)
        index = {
            "schema": _SCHEMA,
            "identity": self.identity,
            "records": [record.to_json() for record in records],
            "tensors": file.name,
            "sha256": sha256(file),
        }
        write_json(self.folder / _INDEX, index)
        for old in [*self.folder.glob("epoch-*.safetensors"), *self.folder.glob(".*.tmp")]:
            if old != file:
                with contextlib.suppress(OSError):
                    old.unlink()

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, hook: Hook | None = None
    ) -> tuple[list[EpochRecord], dict[str, Tensor] | None]:
        """Put the saved state into model, optimizer and hook, in place; the finished epochs ([] for none yet) and
        the weights to go back to (None: there are none).

        Raises UserError when the checkpoint is of another run or damaged.
        """
        if not self.started:
            return [], None
        index, tensors = self._read()
        _unpack(tensors, model, optimizer)
        if hook is not None:
            own = {name.removeprefix("hook/"): t for name, t in tensors.items() if name.startswith("hook/")}
            hook.load_state(own)
        best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        return [EpochRecord(**record) for record in index["records"]], best or None

    def tensors(self) -> dict[str, Tensor]:
        """The model's tensors by name, after the last finished epoch. Raises UserError as ``restore``."""
        found = {name.partition("/"): tensor for name, tensor in self._read()[1].items()}
        # clones: tensors out of a file need not be aligned, and kernels may round otherwise then
        return {name: tensor.clone() for (kind, _, name), tensor in found.items() if kind == "model"}

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        index = read_json(self.folder / _INDEX)
        self._check_identity(index)
        file = self.folder / str(index["tensors"])
        if not file.is_file() or sha256(file) != index["sha256"]:
            raise UserError(
                f"the checkpoint file {file.name} is missing or damaged",
                where=str(self.folder),
                mend="delete this folder to train from the start",
            )
        return index, load_tensors(file)

    @property
    def started(self) -> bool:
        """There is a finished epoch to go on from."""
        return (self.folder / _INDEX).is_file()

    def _check_identity(self, index: Any) -> None:
        found = dict(index["identity"]) if isinstance(index, dict) and index.get("schema") == _SCHEMA else {}
        if found == self.identity:
            return
        changed = [key for key, value in self.identity.items() if found and found.get(key) != value]
        raise UserError(
            "the checkpoint is of another training run",
            where=str(self.folder),
            value=f"changed: {', '.join(changed) or 'format'}",
            mend="choose another folder, or delete this one to train from the start",
        )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those too that a state dict leaves out."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


@torch.no_grad()
def put_back(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """The values of `weights_of` into the model's own tensors."""
    for name, tensor in named_tensors(model).items():
        tensor.copy_(weights[name])


def _pack(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in named_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def _unpack(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    put_back(model, {name: tensors[f"model/{name}"] for name in named_tensors(model)})
    parameters = dict(model.named_parameters())
    for full, tensor in tensors.items():
        kind, _, rest = full.partition("/")
        if kind == "optimizer":
            name, _, key = rest.rpartition("/")
            parameter = parameters[name]
            here = parameter.device if tensor.shape == parameter.shape else tensor.device  # step counts stay
            # a clone: tensors out of a file need not be aligned, and kernels may round otherwise then
            optimizer.state[parameter][key] = tensor.clone().to(here)
