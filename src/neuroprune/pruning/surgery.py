"""Surgery: carry out a plan on a model, in place. No tracing: the plan names every tensor and index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.errors import UserError
from neuroprune.base.modes import refresh
from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning import paths
from neuroprune.pruning.bypass import check_bypasses, install
from neuroprune.pruning.companions import (
    Averages,
    Followers,
    Optimizers,
    averages_of,
    optimizers_of,
    swaps_of_optimizers,
    swaps_of_state_dict,
    unwrapped,
)
from neuroprune.pruning.plan import Plan, fingerprint, tier_of
from neuroprune.pruning.tensors import masked, named_tensors, shrink
from neuroprune.pruning.transaction import Swap, all_or_nothing

__all__ = ["apply", "attribute_edits", "masked", "named_tensors", "rewrite", "shrink", "writes_of"]

Removed = Mapping[str, Mapping[int, tuple[int, ...]]]

_SAME_MODEL = "construct the model with the arguments it had when the plan was made"


class Write(NamedTuple):
    """An attribute below ``root`` that gets the value ``after``; ``place``: where it is."""

    root: nn.Module
    path: str
    after: int
    place: paths.Place

    def carry_out(self) -> None:
        paths.set_(self.root, self.path, self.after)
        if (kept := paths.get(self.root, self.path)) != self.after:
            raise UserError(
                f"{type(self.root).__name__}.{self.path} does not keep the value that is set",
                where=self.path,
                value=f"{kept} after setting {self.after}",
                mend="keep the size as a plain attribute of the module, or keep its layers whole: keep=[...]",
            )


def apply(plan: Plan, model: nn.Module, *, optimizer: Optimizers = None, ema: Averages = ()) -> nn.Module:
    """Cut ``model`` as ``plan`` says and return it. No tracing; training goes on in your own loop.

    >>> apply(plan, model, optimizer=optimizer, ema=averaged)                               # doctest: +SKIP

    Parameters stay the same objects (the optimizer keeps them, tied weights stay tied); their gradients are cut
    with them. ``optimizer``: one or several; each state of the shape of its parameter (momentum, Adam's moments,
    factored ones too) loses the same indices, in place. ``ema``: one or several averaged copies: modules,
    ``torch.optim.swa_utils.AveragedModel``, or dicts of tensors named as in ``state_dict()``. What belongs to a
    removed block leaves all of them.

    Raises UserError, before anything is changed, when the plan was made for another architecture, or optimizer
    and averages do not belong to the model. Whatever is raised, Ctrl-C included, leaves everything as it was.
    """
    (modules, states), optimizers = averages_of(ema), optimizers_of(optimizer)
    networks = [model, *(unwrapped(plan, module) for module in modules)]
    for network in networks:
        _check_fits(plan, network)
        check_bypasses(network, plan.bypassed)
    writes = [write for network in networks for write in writes_of(network, plan.attributes)]
    swaps = [swap for network in networks for swap in _swaps_of_network(plan, network)]
    swaps += [swap for state in states for swap in swaps_of_state_dict(plan, model, state)]
    swaps += swaps_of_optimizers(plan, model, optimizers)
    rewrite(networks, swaps, writes, Followers(model, optimizers, states), lambda net: install(net, plan.bypassed))
    return refresh(model)


def rewrite(
    networks: Sequence[nn.Module],
    swaps: Iterable[Swap],
    writes: Iterable[Write],
    followers: Followers | None = None,
    then: Callable[[nn.Module], object] | None = None,
) -> None:
    """Change all of these tensors and attributes, or none. An object that is held several times is changed once.

    ``then`` may replace modules of each network; ``followers`` let go of the parameters that leave so. Raises
    UserError when an attribute does not keep the value that was set (a property that computes it anew).
    """
    once = {id(swap.tensor): swap for swap in swaps}
    edits = {write.place.identity: write for write in writes}
    places, tables = [write.place for write in edits.values()], followers.tables() if followers else []
    with all_or_nothing(networks, list(once.values()), places, tables):
        for swap in once.values():
            swap.carry_out()
        for write in edits.values():
            write.carry_out()
        for network in networks:
            if then is not None:
                then(network)
        if followers is not None:
            followers.let_go()


def _check_fits(plan: Plan, network: nn.Module) -> None:
    """Raises UserError when ``network`` is not of the architecture that the plan was made for."""
    if plan.tier != tier_of(unwrapped(plan, network)):
        raise _of_another_tier(plan, network)
    difference = _first_difference(plan, network)
    if not difference and fingerprint(network) == plan.fingerprint:
        return
    inside = unwrapped(plan, network) is not network
    raise UserError(
        f"the plan was made for another model: {difference or 'names or shapes of its tensors differ'}",
        where=type(network).__name__,
        mend="pass the network inside the wrapper (model.module or model._orig_mod)" if inside else _SAME_MODEL,
    )


def _of_another_tier(plan: Plan, network: nn.Module) -> UserError:
    name = type(network).__name__
    if plan.tier == "module":
        return UserError("the plan cuts a module, and this is an exported graph", where=name, mend=_SAME_MODEL)
    return UserError(
        "a second-tier plan cuts the exported graph of a model and cannot be applied to the module itself: it "
        "changes sizes that are written into the module's code",
        where=name,
        mend="load the model.pt2 beside the plan with torch.export.load, or apply the plan to "
        "neuroprune.pruning.exported(model, example_inputs)",
    )


def _swaps_of_network(plan: Plan, network: nn.Module) -> list[Swap]:
    tensors = named_tensors(network)
    return [_cut(tensors[name], dims) for name, dims in plan.removed.items()]


def _cut(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Swap:
    grad = tensor.grad if tensor.is_leaf else None
    return Swap(tensor, shrink(tensor.data, dims), None if grad is None else shrink(grad, dims))


def writes_of(network: nn.Module, edits: Sequence[AttributeEdit], *, back: bool = False) -> list[Write]:
    """The edits on ``network``, all checked: each value is what the plan expects and can be set. Raises UserError.

    ``back``: from after to before. Checked against the network as it is now, so an object that several modules
    share may be named by more than one edit, as long as they agree.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    found: dict[Any, Write] = {}
    for edit in edits:
        old, new = (edit.after, edit.before) if back else (edit.before, edit.after)
        name = f"{edit.module}.{edit.name}".lstrip(".")
        if edit.module not in modules:
            raise UserError(f"the model has no module {edit.module!r}", where=name, mend=_SAME_MODEL)
        module = modules[edit.module]
        value = paths.get(module, edit.name)
        if value != old:
            raise UserError(
                f"{name} is not what the plan expects",
                where=type(network).__name__,
                value=f"{value}, not {old}",
                mend=_SAME_MODEL,
            )
        write = Write(module, edit.name, new, paths.check(module, edit.name))
        known = found.setdefault(write.place.identity, write)
        if known.after != new:
            raise UserError(
                f"the plan sets {name} to two values",
                where=type(network).__name__,
                value=f"{known.after} and {new}",
                mend="make the plan again; this one was changed by hand or by another program",
            )
    return list(found.values())


def attribute_edits(
    model: nn.Module, removed: Removed, solved: Sequence[AttributeEdit] = ()
) -> tuple[AttributeEdit, ...]:
    """``solved``, and the sizes PyTorch's own layers keep about themselves, from their new weight shapes."""
    shrinking = {id(tensor): removed[name] for name, tensor in named_tensors(model).items() if name in removed}
    known = {(e.module, e.name): e.after for e in solved}
    edits = list(solved)
    for path, module in model.named_modules():
        sizes: dict[str, tuple[int, int]] = {}
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            dims = shrinking.get(id(tensor))
            if tensor is not None and dims:
                after = [n - len(dims.get(d, ())) for d, n in enumerate(tensor.shape)]
                groups = known.get((path, "groups"), getattr(module, "groups", 1))
                sizes |= _sizes(module, key, list(tensor.shape), after, groups)
        edits += [AttributeEdit(path, n, *pair) for n, pair in sorted(sizes.items()) if (path, n) not in known]
    return tuple(e for e in edits if e.before != e.after)


def _sizes(
    module: nn.Module, key: str, before: list[int], after: list[int], groups: int
) -> dict[str, tuple[int, int]]:
    """Attribute -> (before, after) for one tensor of one layer. ``groups``: those of the cut convolution."""
    if isinstance(module, _NormBase) and key in ("weight", "running_mean"):
        return {"num_features": (before[0], after[0])}
    if key != "weight":
        return {}
    if isinstance(module, nn.Linear):
        return {"out_features": (before[0], after[0]), "in_features": (before[1], after[1])}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": (before[1], after[1])}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": (before[0], after[0])}
    if isinstance(module, _ConvNd):
        first, second = ("out_channels", "in_channels")
        if isinstance(module, _ConvTransposeNd):
            first, second = second, first
        return {first: (before[0], after[0]), second: (before[1] * module.groups, after[1] * groups)}
    return {}


def _first_difference(plan: Plan, model: nn.Module) -> str:
    """What the plan cuts and the model has not; empty where all of it is there."""
    tensors = named_tensors(model)
    for name, dims in plan.removed.items():
        if name not in tensors:
            return f"it has no tensor {name!r}"
        shape = tensors[name].shape
        for dim, indices in dims.items():
            if dim >= len(shape) or indices[-1] >= shape[dim]:
                return f"{name!r} has shape {tuple(shape)}, the plan removes index {indices[-1]} of dim {dim}"
    return ""
