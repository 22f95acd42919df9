"""Torch-Pruning on one model, with no hint but the output layer, which it must be told. Runs in a child."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from measuring.checks import doubled, masked_error, run, runs_like, said, stir
from measuring.children import Report
from measuring.shares import parameters

PACKAGE = "torch-pruning"
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def measure_peer(zoo: Any, name: str, ratio: float, report: Report) -> None:
    """``runs``, ``unchanged`` (nothing was removed), ``broken`` (its forward pass fails), ``shape``, ``error``."""
    report.tell(stage="build")
    model, inputs = zoo.build(name)
    dense = copy.deepcopy(model)
    heads = output_layers(model, inputs, zoo.classes(name))
    report.tell(stage="prune", params=parameters(model), ignored=len(heads))
    began = time.process_time()
    try:
        cut(model, inputs, ratio, heads)
    except Exception as error:
        report.tell(status="error", problem=said(error), cpu_s=round(time.process_time() - began, 3))
        return
    report.tell(stage="forward", cpu_s=round(time.process_time() - began, 3), params_after=parameters(model))
    status, problem = _outcome(dense, model.eval(), inputs)
    report.tell(status=status, problem=problem, removed=1 - parameters(model) / parameters(dense))
    if status == "runs":
        exact, why = _compare(zoo, name, ratio)
        report.tell(exact=exact, exact_problem=why)


def cut(model: nn.Module, inputs: Any, ratio: float, ignored: Sequence[nn.Module]) -> None:
    """Constructor and step: what the time is taken of."""
    import torch_pruning as tp

    pruner = tp.pruner.MagnitudePruner(
        model, inputs, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio,
        ignored_layers=list(ignored),
    )  # fmt: skip
    pruner.step()


def output_layers(model: nn.Module, inputs: Any, classes: int | None) -> list[nn.Module]:
    """Linear and convolution layers with ``classes`` outputs, and those whose result is an output of the model."""
    made: dict[nn.Module, int] = {}
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]

    def note(module: nn.Module, _: Any, out: Any) -> None:
        made[module] = out.untyped_storage().data_ptr() if isinstance(out, Tensor) else 0

    hooks = [m.register_forward_hook(note) for m in layers]
    kept: list[Tensor] = []
    try:
        with torch.no_grad():
            kept = run(model, inputs)  # held, so that no later tensor takes their place in memory
    finally:
        for hook in hooks:
            hook.remove()
    ends = {out.untyped_storage().data_ptr() for out in kept}
    width = {m: m.out_features if isinstance(m, nn.Linear) else m.out_channels for m in layers}
    return [m for m in layers if made.get(m) in ends or (classes is not None and width[m] == classes)]


def _outcome(dense: nn.Module, small: nn.Module, inputs: Any) -> tuple[str, str]:
    if parameters(small) == parameters(dense):
        return "unchanged", "no parameter was removed"
    with torch.no_grad():
        try:
            got = run(small, inputs)
        except Exception as error:
            return "broken", said(error)
        if [t.shape for t in got] != [t.shape for t in run(dense, inputs)]:
            return "shape", "the shapes of the outputs change"
    return "runs", "" if runs_like(dense, small, inputs)[0] is not False else "not at another batch size"


def _compare(zoo: Any, name: str, ratio: float) -> tuple[str, str]:
    """Does its cut equal the masked dense network? ``yes``, ``no``, or ``undecided``.

    The same model again in float64, every weight a value of its own, so that what was kept can be read from the
    values; norms over channels only scale and shift there, so that their statistics do not decide. ``no`` is said
    only of networks of PyTorch's own layers: elsewhere a hidden statistic over channels may be the reason.
    """
    try:
        error, allowed, plain = _against_masked(zoo, name, ratio)
    except Exception as trouble:  # its second cut fails where the first did not: nothing can be said
        return "undecided", said(trouble)
    verdict = "yes" if error <= allowed else "no" if plain else "undecided"
    return verdict, "" if verdict == "yes" else f"differs from the masked network by {error:.1e}"


def _against_masked(zoo: Any, name: str, ratio: float) -> tuple[float, float, bool]:
    """Relative error of a cut against the masked dense network, what is allowed, whether all layers are known."""
    model, inputs = zoo.build(name)
    inputs = doubled(inputs)
    dense = distinct(stir(model).double())
    small = copy.deepcopy(dense)
    cut(small, inputs, ratio, output_layers(small, inputs, zoo.classes(name)))
    removed = removed_indices(dense, small.eval())
    for net in (dense, small):
        without_statistics(net)
    nothing = (float("inf"), 0.0)  # what is left of some tensor is no slice of it
    error, allowed = nothing if removed is None else masked_error(dense, small, removed, inputs)
    return error, allowed, _known_layers(dense)


def distinct(model: nn.Module) -> nn.Module:
    """Add noise far below the weights' own size, so that no two elements of a tensor are equal; in place."""
    generator = torch.Generator().manual_seed(2)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data = tensor.data + 1e-6 * noise * (tensor.data.abs().max() if tensor.numel() else 1)
    return model


def removed_indices(dense: nn.Module, small: nn.Module) -> dict[str, dict[int, list[int]]] | None:
    """Which indices of each dimension are gone, read from the values; None where what is left is no slice."""
    left = dict([*small.named_parameters(), *small.named_buffers()])
    removed: dict[str, dict[int, list[int]]] = {}
    for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
        if name not in left or left[name].shape == tensor.shape:
            continue
        kept = kept_indices(tensor.detach(), left[name].detach())
        if kept is None:
            return None
        removed[name] = {d: sorted(set(range(n)) - set(kept[d])) for d, n in enumerate(tensor.shape)}
    return removed


def kept_indices(full: Tensor, part: Tensor) -> list[list[int]] | None:
    """Per dimension, the indices of ``full`` whose crossing is ``part``; None where there are none."""
    if full.dim() != part.dim() or not part.numel():
        return None
    order = full.flatten().argsort()
    places = torch.searchsorted(full.flatten()[order], part.flatten().contiguous()).clamp_max(full.numel() - 1)
    flat = order[places]
    if not torch.equal(full.flatten()[flat], part.flatten()):
        return None
    axes = [axis.unique(sorted=True) for axis in torch.unravel_index(flat, full.shape)]
    if [axis.numel() for axis in axes] != list(part.shape):
        return None
    return (
        [axis.tolist() for axis in axes] if torch.equal(full[torch.meshgrid(*axes, indexing="ij")], part) else None
    )


def without_statistics(model: nn.Module) -> None:
    """Norms over channels only scale and shift: what is left shows whether the right channels were kept."""
    for module in model.modules():
        if isinstance(module, _NORMS):
            second = isinstance(module, nn.GroupNorm) or type(module).__name__.endswith("2d")
            module.forward = functools.partial(_affine, module, 1 if second else -1)  # type: ignore[method-assign]


def _affine(norm: nn.Module, dim: int, x: Tensor) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    x = x if norm.weight is None else x * norm.weight.reshape(shape)
    return x if getattr(norm, "bias", None) is None else x + norm.bias.reshape(shape)


def _known_layers(model: nn.Module) -> bool:
    """Every parameter belongs to a layer of PyTorch itself, or to a norm whose statistics are off."""
    own = [m for m in model.modules() if list(m.parameters(recurse=False))]
    return all(type(m) in _PLAIN or isinstance(m, _NORMS) for m in own)
