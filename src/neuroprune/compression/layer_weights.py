"""Which tensors of a network are weights of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest

LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Embedding,
    nn.EmbeddingBag,
)


@dataclass(frozen=True)
class LayerWeight:
    """``layer``: the module that it belongs to; the output projection of an attention belongs to the attention."""

    name: str
    layer: str
    tensor: Tensor


def layer_weights(model: nn.Module, only: Sequence[str] = (), keep: Sequence[str] = ()) -> list[LayerWeight]:
    """The weight tensors of all layers in the order of the network, tied ones once; no biases, no norms.

    ``only``, where it is given, and not ``keep``: patterns of tensors or modules (``*`` stands for anything).
    Raises UserError for a pattern that matches nothing, and for a weight that is not finite, has no values yet or
    is computed by a parametrisation.
    """
    check_patterns(model, [*only, *keep])
    found = list(_all(model))
    chosen = [w for w in found if (not only or _matches(w, only)) and not _matches(w, keep)]
    for weight in chosen:
        _check(weight)
    return chosen


def _all(model: nn.Module) -> Iterator[LayerWeight]:
    modules = dict(model.named_modules())
    outer = {id(m.out_proj): name for name, m in modules.items() if isinstance(m, nn.MultiheadAttention)}
    seen: set[int] = set()
    for name, module in modules.items():
        if not isinstance(module, LAYERS):
            continue
        layer = outer.get(id(module), name) or type(module).__name__
        for key, tensor in _own(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield LayerWeight(f"{name}.{key}" if name else key, layer, tensor)


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a parametrisation computes too, which is refused later: its parameter has another name."""
    for key, parameter in module.named_parameters(recurse=False):
        if (is_lazy(parameter) or parameter.dim() >= 2) and not key.startswith("bias"):
            yield key, parameter
    if parametrize.is_parametrized(module):
        for key in module.parametrizations:  # type: ignore[union-attr]
            if not key.startswith("bias"):
                yield key, getattr(module, key)


def _matches(weight: LayerWeight, patterns: Sequence[str]) -> bool:
    names = (weight.name, weight.name.rpartition(".")[0], weight.layer)
    return any(fnmatch(name, one) for name in names for one in patterns)


def check_patterns(model: nn.Module, patterns: Sequence[str], where: str | None = None) -> None:
    """Raises UserError for a pattern that matches no weight of a layer."""
    found = list(_all(model)) if patterns else []
    for one in patterns:
        if not any(_matches(weight, [one]) for weight in found):
            names = [weight.name for weight in found]
            guess = nearest(one, names)
            raise UserError(
                f"the pattern {one!r} matches no weight of a layer",
                where=where,
                mend=(f"did you mean {guess!r}? " if guess else "") + f"weights: {', '.join(names[:20])}",
            )


def _check(weight: LayerWeight) -> None:
    tensor = weight.tensor
    if is_lazy(tensor) or tensor.is_meta:
        raise UserError(
            "the weights have no values yet", where=weight.name, mend="run the model once, or load them"
        )
    if not isinstance(tensor, nn.Parameter):
        raise UserError(
            "the weights are computed by a parametrisation",
            where=weight.name,
            mend="take it off first, with torch.nn.utils.parametrize.remove_parametrizations",
        )
    if not tensor.is_floating_point():
        raise UserError("only real weights can be clustered", where=weight.name, value=str(tensor.dtype),
                        mend="name it in keep")  # fmt: skip
    if not torch.isfinite(tensor).all():
        raise UserError("the weights hold NaN or infinity", where=weight.name, mend="train again, or reload")
