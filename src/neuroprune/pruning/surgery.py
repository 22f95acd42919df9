"""Surgery: carry out a plan on a model, in place. No tracing: the plan names every tensor and index."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.pruning.bypass import check_bypasses, install
from neuroprune.pruning.plan import AttributeEdit, Plan, fingerprint

Removed = Mapping[str, Mapping[int, tuple[int, ...]]]


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """Cut ``model`` as ``plan`` says and return it. Parameters stay the same objects (tied weights stay tied).

    Raises UserError, before anything is changed, when the plan was made for another architecture.
    """
    if fingerprint(model) != plan.fingerprint:
        raise UserError(
            "the plan was made for another model: " + _first_difference(plan, model),
            where=type(model).__name__,
            mend="construct the model with the arguments it had when the plan was made",
        )
    check_bypasses(model, plan.bypassed)
    tensors = named_tensors(model)
    cut = {name: shrink(tensors[name].data, dims) for name, dims in plan.removed.items()}
    modules = dict(model.named_modules())
    for edit in plan.attributes:
        if getattr(modules[edit.module], edit.name) != edit.before:
            raise UserError(
                f"{edit.module}.{edit.name} is not what the plan expects",
                where=type(model).__name__,
                value=f"{getattr(modules[edit.module], edit.name)}, not {edit.before}",
                mend="construct the model with the arguments it had when the plan was made",
            )
    for name, value in cut.items():
        tensors[name].grad = None
        tensors[name].data = value
    for edit in plan.attributes:
        setattr(modules[edit.module], edit.name, edit.after)
    install(model, plan.bypassed)
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each object once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shrink(tensor: Tensor, removed: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A copy of ``tensor`` without the removed indices, in the same memory format."""
    for dim, indices in removed.items():
        stays = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        stays[list(indices)] = False
        tensor = tensor.index_select(dim, stays.nonzero().flatten())
    return tensor.clone(memory_format=torch.contiguous_format)


def masked(tensor: Tensor, removed: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A copy of ``tensor`` at full size with the removed indices set to zero."""
    tensor = tensor.clone()
    for dim, indices in removed.items():
        tensor.index_fill_(dim, torch.tensor(indices, device=tensor.device), 0)
    return tensor


def attribute_edits(model: nn.Module, removed: Removed) -> tuple[AttributeEdit, ...]:
    """Sizes that PyTorch's own layers keep about themselves, recomputed from their new weight shapes."""
    shared = {id(tensor): name for name, tensor in named_tensors(model).items()}
    edits: list[AttributeEdit] = []
    for path, module in model.named_modules():
        sizes: dict[str, tuple[int, int]] = {}
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            dims = removed.get(shared[id(tensor)])
            if dims:
                after = [n - len(dims.get(d, ())) for d, n in enumerate(tensor.shape)]
                sizes |= _sizes(module, key, list(tensor.shape), after)
        edits += [AttributeEdit(path, name, *pair) for name, pair in sorted(sizes.items())]
    return tuple(e for e in edits if e.before != e.after)


def _sizes(module: nn.Module, key: str, before: list[int], after: list[int]) -> dict[str, tuple[int, int]]:
    """Attribute -> (before, after) for one tensor of one layer."""
    if isinstance(module, _NormBase) and key in ("weight", "running_mean"):
        return {"num_features": (before[0], after[0])}
    if key != "weight":
        return {}
    if isinstance(module, nn.Linear):
        return {"out_features": (before[0], after[0]), "in_features": (before[1], after[1])}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": (before[1], after[1])}
    if isinstance(module, _ConvNd):
        return _conv_sizes(module, before, after)
    return {}


def _conv_sizes(module: _ConvNd, before: list[int], after: list[int]) -> dict[str, tuple[int, int]]:
    """weight: [out, in / groups, ...], transposed [in, out / groups, ...]; whole groups go."""
    rows = before[0] // module.groups
    groups = after[0] // rows if module.groups > 1 else 1
    first, second = ("in_channels", "out_channels") if isinstance(module, _ConvTransposeNd) else (
        "out_channels", "in_channels")  # fmt: skip
    return {
        "groups": (module.groups, groups),
        first: (before[0], after[0]),
        second: (before[1] * module.groups, after[1] * groups),
    }


def _first_difference(plan: Plan, model: nn.Module) -> str:
    tensors = named_tensors(model)
    for name, dims in plan.removed.items():
        if name not in tensors:
            return f"it has no tensor {name!r}"
        shape = tensors[name].shape
        for dim, indices in dims.items():
            if dim >= len(shape) or indices[-1] >= shape[dim]:
                return f"{name!r} has shape {tuple(shape)}, the plan removes index {indices[-1]} of dim {dim}"
    return "names or shapes of its tensors differ"
