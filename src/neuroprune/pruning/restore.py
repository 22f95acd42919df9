"""What undoing a cut needs, kept outside the artifact: the dense tensors and the plan."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, save_tensors
from neuroprune.pruning.plan import Plan, fingerprint
from neuroprune.pruning.surgery import named_tensors


def save_undo(folder: Path, dense: nn.Module, plan: Plan) -> None:
    """Write ``dense.safetensors`` (the network before the cut) and ``plan.json`` into ``folder``."""
    save_tensors(folder / "dense.safetensors", dense.state_dict())
    plan.save(folder / "plan.json")


def load_undo(folder: Path) -> dict[str, Tensor]:
    """The dense state dict. Raises UserError when the folder holds none."""
    if not (folder / "dense.safetensors").is_file():
        raise UserError(
            "there is nothing to restore here (no dense.safetensors)",
            where=str(folder),
            mend="name the run folder that made the cut; it holds the folder undo/",
        )
    return load_tensors(folder / "dense.safetensors")


def restore(plan: Plan, model: nn.Module, dense_state: dict[str, Tensor]) -> nn.Module:
    """Give a cut ``model`` its dense sizes and weights back, in place, and return it.

    Raises UserError, before anything is changed, when ``plan``, ``model`` and ``dense_state`` do not fit.
    """
    tensors = named_tensors(model)
    for name, tensor in tensors.items():
        if name not in dense_state:
            continue  # a non-persistent buffer
        shape = list(dense_state[name].shape)
        for dim, indices in plan.removed.get(name, {}).items():
            shape[dim] -= len(indices)
        if list(tensor.shape) != shape:
            raise UserError(
                "the model is not what this plan made of the dense one",
                where=name,
                value=f"shape {tuple(tensor.shape)}, expected {tuple(shape)}",
                mend="give the cut model, the plan that cut it and the dense weights of the same run",
            )
    lost = sorted(set(plan.removed) - set(dense_state))
    if lost:
        raise UserError(f"the dense weights lack {lost[0]!r}", mend="use the undo/ folder of the same run")
    modules = dict(model.named_modules())
    for name in plan.removed:
        tensors[name].grad = None
        tensors[name].data = dense_state[name].to(tensors[name].device).clone()
    for edit in plan.attributes:
        setattr(modules[edit.module], edit.name, edit.before)
    model.load_state_dict(dense_state)
    if fingerprint(model) != plan.fingerprint:
        raise UserError(
            "the restored model is not the one the plan was made for",
            where=type(model).__name__,
            mend="use the undo/ folder of the same run",
        )
    return model
