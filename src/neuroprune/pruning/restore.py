"""What undoing a cut needs, kept outside the artifact: the dense tensors and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, save_tensors
from neuroprune.pruning.plan import Plan, fingerprint_of
from neuroprune.pruning.surgery import rewrite, writes_of
from neuroprune.pruning.tensors import named_tensors
from neuroprune.pruning.transaction import Swap


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


def restore(plan: Plan, model: nn.Module, dense_state: Mapping[str, Tensor]) -> nn.Module:
    """Give a cut ``model`` its dense sizes and weights back, in place, and return it.

    >>> restore(result.plan, result.model, model.state_dict())                              # doctest: +SKIP

    ``dense_state``: the state dict of the network before the cut. Data type and device stay the cut model's.
    Raises UserError, before anything is changed, when ``plan``, ``model`` and ``dense_state`` do not fit.
    """
    tensors = named_tensors(model)
    _check_sizes(plan, tensors, dense_state)
    lost = sorted(set(plan.removed) - set(dense_state))
    if lost:
        raise UserError(
            f"the dense weights lack {lost[0]!r}",
            value=f"{len(dense_state)} tensors",
            mend="use the undo/ folder of the same run; a buffer that is not saved comes from a new dense model: "
            "{**dense_state, **dict(dense.named_buffers())}",
        )
    if fingerprint_of({name: dense_state[name] for name in model.state_dict() if name in dense_state}) != (
        plan.fingerprint
    ):
        raise UserError(
            "the dense weights are not of the model the plan was made for",
            where=type(model).__name__,
            value=f"{len(dense_state)} tensors",
            mend="use the undo/ folder of the same run",
        )
    swaps = [
        Swap(tensor, dense_state[name].detach().to(tensor.device, tensor.dtype, copy=True))
        for name, tensor in tensors.items()
        if name in dense_state
    ]
    rewrite([model], swaps, writes_of(model, plan.attributes, back=True))
    return model


def _check_sizes(plan: Plan, tensors: Mapping[str, Tensor], dense_state: Mapping[str, Tensor]) -> None:
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
