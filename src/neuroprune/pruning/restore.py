"""What undoing a cut needs, kept outside the artifact: the dense tensors and the plan."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, save_tensors
from neuroprune.pruning.bypass import put_back
from neuroprune.pruning.plan import Plan, fingerprint
from neuroprune.pruning.surgery import apply, named_tensors


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


def restore(
    plan: Plan, model: nn.Module, dense_state: dict[str, Tensor], *, dense: nn.Module | None = None
) -> nn.Module:
    """Give a cut ``model`` its dense sizes and weights back, in place, and return it.

    ``dense``: a freshly constructed dense model, from which the blocks come that the plan removed whole; it is
    left as it is, and not needed where the plan removes none. Raises UserError, before anything is changed, when
    ``plan``, ``model``, ``dense_state`` and ``dense`` do not fit.
    """
    lost = sorted(set(plan.removed) - set(dense_state))
    if lost:
        raise UserError(f"the dense weights lack {lost[0]!r}", mend="use the undo/ folder of the same run")
    if plan.bypassed:
        put_back(model, plan.bypassed, _fitting(plan, model, dense, dense_state))
    else:
        _check_shapes(plan, model, dense_state)
    tensors = named_tensors(model)
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


def _check_shapes(plan: Plan, model: nn.Module, dense_state: dict[str, Tensor]) -> None:
    for name, tensor in named_tensors(model).items():
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


def _fitting(plan: Plan, model: nn.Module, dense: nn.Module | None, dense_state: dict[str, Tensor]) -> nn.Module:
    """``dense``, after a rehearsal: ``plan`` makes of it a model like ``model``, and it takes ``dense_state``."""
    if dense is None:
        raise UserError(
            "the plan removed whole blocks, and a cut model does not hold them",
            where=next(iter(plan.bypassed)),
            mend="pass dense=, the dense model as it is constructed; its weights do not matter",
        )
    if fingerprint(apply(plan, copy.deepcopy(dense))) != fingerprint(model):
        raise UserError(
            "the model is not what this plan made of the dense one",
            where=type(model).__name__,
            mend="give the cut model, the plan that cut it and the dense model of the same run",
        )
    shapes = {name: tensor.shape for name, tensor in dense.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in dense_state.items()}:
        raise UserError(
            "the dense weights are not those of the dense model",
            where=type(dense).__name__,
            mend="use the undo/ folder of the same run",
        )
    return dense
