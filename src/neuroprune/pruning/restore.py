"""What undoing a cut needs, kept outside the artifact: the dense tensors and the plan."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors, save_tensors
from neuroprune.pruning.bypass import edits_left, put_back
from neuroprune.pruning.plan import Plan, fingerprint, fingerprint_of
from neuroprune.pruning.surgery import apply, rewrite, writes_of
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


def restore(
    plan: Plan, model: nn.Module, dense_state: Mapping[str, Tensor], *, dense: nn.Module | None = None
) -> nn.Module:
    """Give a cut ``model`` its dense sizes and weights back, in place, and return it.

    >>> restore(result.plan, result.model, model.state_dict())                              # doctest: +SKIP

    ``dense_state``: the state dict of the network before the cut. Data type and device stay the cut model's.
    ``dense``: a newly constructed dense model, from which the blocks are copied that the plan removed whole; not
    needed where it removes none. Raises UserError, before anything is changed, when these do not fit together.
    """
    tensors = named_tensors(model)
    source = _with_blocks(plan, model, dense) if plan.bypassed else None
    if source is None:
        _check_sizes(plan, tensors, dense_state)
    lost = sorted(set(plan.removed) - set(dense_state))
    if lost:
        raise UserError(
            f"the dense weights lack {lost[0]!r}",
            value=f"{len(dense_state)} tensors",
            mend="use the undo/ folder of the same run; a buffer that is not saved comes from a new dense model: "
            "{**dense_state, **dict(dense.named_buffers())}",
        )
    saved = {name: dense_state[name] for name in (source or model).state_dict() if name in dense_state}
    if fingerprint_of(saved) != plan.fingerprint:
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
    if source is None:
        rewrite([model], swaps, writes_of(model, plan.attributes, back=True))
    else:
        source.load_state_dict(saved, strict=False)  # extra state, which is no tensor, may be absent
        writes = writes_of(model, edits_left(source, plan), back=True)
        rewrite([model], swaps, writes, then=lambda net: put_back(net, plan.bypassed, source))
    return model


def _with_blocks(plan: Plan, model: nn.Module, dense: nn.Module | None) -> nn.Module:
    """A copy of ``dense`` that ``plan`` turns into a model like ``model``. Raises UserError where it is not so."""
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
    like = next(model.parameters(), None)
    source = copy.deepcopy(dense)
    return source if like is None else source.to(device=like.device, dtype=like.dtype)


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
