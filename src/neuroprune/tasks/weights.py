"""Weights from a file onto a model, without ever unpickling an object."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import beginning, load_tensors
from neuroprune.base.registry import nearest

#: where training scripts put the state dict inside a checkpoint
_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "weights")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
#: what DataParallel and torch.compile put before every name
_PREFIXES = ("module.", "_orig_mod.")
_CONVERT = (
    "in the program that made it: torch.save(model.state_dict(), 'weights.pt'), "
    "or safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a ``.safetensors`` file or a torch state dict into ``model``, all of it or nothing.

    A state dict may be wrapped (``{"state_dict": ...}``) and its names may start with ``module.``.
    Raises UserError when the file is absent or unreadable, holds pickled objects (they are never
    loaded: unpickling runs code), holds NaN, or fits another architecture (first five differences).
    """
    path = Path(path)
    state = read_state_dict(path)
    own = model.state_dict()
    _check_fits(own, state, path, type(model).__name__)
    _check_finite(state, path)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state and isinstance(tensor, Tensor):
                tensor.copy_(state[name])


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The named tensors in a weights file. Raises UserError."""
    if not path.is_file():
        raise _absent(path)
    content = load_tensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(content)
    if not state:
        kind = f"keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else None
        raise UserError(
            f"{path.name} holds no state dict",
            where=str(path),
            value=kind or type(content).__name__,
            mend=_CONVERT,
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are no checkpoints
        objects = isinstance(error, pickle.UnpicklingError) and _is_pickle(path)
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path.name} holds pickled objects, which run code when they are loaded; it was not loaded"
            if objects
            else f"{path.name} is no readable state dict: torch.load raised {type(error).__name__}",
            where=str(path),
            value=found[1] if objects and found else beginning(path),
            mend=_CONVERT if objects else f"copy it again if it was cut off; else, {_CONVERT}",
        ) from error


def _is_pickle(path: Path) -> bool:
    """Whether it begins as what ``torch.save`` or ``pickle.dump`` writes; random bytes fail to unpickle too."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _absent(path: Path) -> UserError:
    folder = path if path.is_dir() else path.parent
    here = sorted(file.name for file in folder.iterdir() if file.suffix in _SUFFIXES) if folder.is_dir() else []
    guess = nearest(path.name, here)
    offer = f"weights files there: {', '.join(here[:5])}" if here else "there are no weights files there"
    return UserError(
        f"{path} is a folder, not a weights file" if path.is_dir() else f"there is no weights file {path}",
        where=str(folder.resolve()),
        value=str(path),
        mend=(f"did you mean {guess!r}? " if guess else "name a .safetensors or .pt file; ") + offer,
    )


def _unwrap(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one wrapped inside a checkpoint."""
    if not isinstance(content, Mapping):
        return {}
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _check_fits(own: Mapping[str, Any], state: Mapping[str, Tensor], path: Path, model: str) -> None:
    wanted = {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}
    missing = set(_missing(wanted, state))
    problems = []
    for name, tensor in wanted.items():  # in the model's order: the first difference tells most
        if name in missing:
            problems.append(f"missing: {name} {tuple(tensor.shape)}")
        elif name in state and state[name].shape != tensor.shape:
            problems.append(
                f"shape of {name}: {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the model"
            )
    problems += [f"unexpected: {name} {tuple(t.shape)}" for name, t in state.items() if name not in wanted]
    if problems:
        shown = "\n    ".join(problems[:5])
        more = f"\n    and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"the weights in {path.name} are of another architecture than {model}:\n    {shown}{more}",
            where=str(path),
            value=f"{len(state)} tensors in the file, {len(wanted)} in the model",
            mend="check the model's name and its arguments (width, number of classes)",
        )


def _missing(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Names that the file lacks, but for batch counters and tensors that share memory with a present one."""
    present = {_place(tensor) for name, tensor in wanted.items() if name in state}
    return [
        name
        for name, tensor in wanted.items()
        if name not in state and not name.endswith("num_batches_tracked") and _place(tensor) not in present
    ]


def _place(tensor: Tensor) -> tuple[int, torch.Size] | int:
    """Equal for tied tensors (a meta or empty tensor is tied to nothing)."""
    pointer = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return (pointer, tensor.shape) if pointer else id(tensor)


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"the weights in {path.name} hold NaN or Inf: {name}",
                where=str(path),
                value=f"{count} of {tensor.numel()} values of {name}",
                mend="use weights of a training that did not diverge",
            )
