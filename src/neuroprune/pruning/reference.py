"""What a cut network must compute: the dense network with the dropped channels masked.

Two references. :func:`zeroed` only zeroes weights at the plan's indices and shares nothing with the engine. Where
statistics over channels change (layer norm, softmax, attention's default scale) it cannot serve: there
:func:`masked_outputs` runs the dense network, zeroes the dropped labels after every operator and takes every
statistic over the kept ones. What is kept is read off an operator's input, never off the labels its rule writes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import in_float64
from neuroprune.graph.calls import as_calls, map_tensors
from neuroprune.graph.interpret import LabelMode, labelled, watched
from neuroprune.graph.resolve import Components, resolve
from neuroprune.graph.rules import OpCall
from neuroprune.graph.trace import Trace
from neuroprune.graph.units import Owner
from neuroprune.pruning.bypass import silence
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.tensors import masked, named_tensors


def zeroed(dense: nn.Module, plan: Plan) -> nn.Module:
    """``dense`` itself, the plan's indices set to zero in every tensor, and the blocks that go silent."""
    tensors = named_tensors(dense)
    for name, dims in plan.removed.items():
        tensors[name].data = masked(tensors[name].data, dims)
    silence(dense, plan.bypassed)
    return dense


def masked_outputs(
    reference: nn.Module, found: Trace, plan: Plan, inputs: Any, seed: int, *, training: bool = False
) -> list[Any]:
    """One output per example call of ``reference`` (see :func:`zeroed`), masked after every operator.

    ``training``: on the way that its code takes in training, see `training_branches`.

    A model may take another way with data than without (a mask built or left out). Then labels are numbered
    otherwise than in ``found``, and are collected anew in a run with data.
    """
    assert found.components is not None
    mode = _MaskMode(_gone(found.components, found.owners, plan))
    with contextlib.suppress(UserError):  # with labels numbered otherwise, anything may happen
        outputs = _run(reference, mode, inputs, seed, training)
        if mode.digest == found.digest:
            return outputs
    own = LabelMode()
    _run(reference, own, inputs, seed, training)
    mode = _MaskMode(_gone(resolve(own.records), own.owners, plan))
    outputs = _run(reference, mode, inputs, seed, training)
    if mode.digest != own.digest:
        raise RuntimeError("two runs of the model execute different operators")
    return outputs


def _run(reference: nn.Module, mode: LabelMode, inputs: Any, seed: int, training: bool) -> list[Any]:
    outputs = []
    with labelled(reference, mode) as sizes, torch.random.fork_rng(devices=[]), in_float64():
        for args, kwargs in as_calls(inputs):
            torch.manual_seed(seed)
            own = map_tensors(torch.clone, (args, kwargs))
            outputs.append(watched(reference, mode, sizes, *own, training=training))
    return outputs


def _gone(components: Components, owners: Sequence[Owner], plan: Plan) -> np.ndarray:
    """Per label: the plan removes it. A basic component goes when the plan removes every index it owns."""
    owned = np.zeros(components.start.size - 1, dtype=np.int64)
    removed = np.zeros_like(owned)
    for tensor, dim, first, count in owners:
        out = np.zeros(count, dtype=bool)
        out[list(plan.removed.get(tensor, {}).get(dim, ()))] = True
        position, base = components.bases(np.arange(first, first + count))
        np.add.at(owned, base, 1)
        np.add.at(removed, base, out[position].astype(np.int64))
    lost = (owned > 0) & (removed == owned)
    gone = np.zeros(components.of.size, dtype=bool)
    position, base = components.bases(np.arange(gone.size))
    gone[position[lost[base]]] = True
    return gone


class _MaskMode(LabelMode):  # type: ignore[no-untyped-call]  # torch: untyped __init_subclass__
    """Runs on real tensors: what a dropped label marks is zero after every operator."""

    def __init__(self, gone: np.ndarray) -> None:
        super().__init__()
        self.gone = gone

    def after(self, op: OpCall) -> None:
        if op.statistical:
            self._recompute(op)
        if op.func is not None and op.func.is_view:
            return  # what it looks at is masked already
        for out in op.outputs:
            for dim, vector in self.labels_of(out).items():
                lost = np.flatnonzero(self.gone[vector])
                if lost.size:
                    out.index_fill_(dim, torch.from_numpy(lost), 0)

    def _recompute(self, op: OpCall) -> None:
        """The operator's result where its input is kept, computed from what is kept of its input.

        Where that is, and where the results go, follows from the labels of the *input* and from what the operator
        does: labels that its rule writes, or forgets to tie, must not decide what they are checked against.
        """
        if op.name == "scaled_dot_product_attention":
            op.outputs[0].copy_(self._attention(op))
            return
        value = op.args["input" if "input" in op.args else "self"]
        keep = [self._kept(value, dim) for dim in range(value.dim())]
        assert op.func is not None
        result = op.func(**_of_kept(op, value, keep))
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        for out, part in zip(op.outputs, results, strict=True):
            _put(out, part, _places(op, value, out, keep))

    def _kept(self, tensor: Tensor, dim: int) -> Tensor:
        """Indices of one dimension that stay."""
        vector = self.labels_of(tensor).get(dim)
        if vector is None:
            return torch.arange(tensor.shape[dim])
        return torch.from_numpy(np.flatnonzero(~self.gone[vector]))

    def _attention(self, op: OpCall) -> Tensor:
        """Removed channels are zero already; what changes is the default scale, 1 / sqrt(head dimension)."""
        query = op.args["query"]
        width = self._kept(query, query.dim() - 1).numel()
        arguments = {**op.args, "scale": width**-0.5}
        return torch.nn.functional.scaled_dot_product_attention(**arguments)


def _of_kept(op: OpCall, value: Tensor, keep: Sequence[Tensor]) -> dict[str, Any]:
    """The arguments of an operator, of ``value`` and all that belongs to its channels only what is kept."""
    small = {name: _take(x, keep) if x is value else x for name, x in op.args.items()}
    behind = len(op.args.get("normalized_shape", ()))
    channels = keep[value.dim() - behind :] if behind else keep[1:2]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(op.args.get(name), Tensor):
            small[name] = _take(op.args[name], channels)
    if behind:
        small["normalized_shape"] = [len(k) for k in channels]
    if op.name == "native_group_norm":
        shape = [len(k) for k in keep]
        small |= {"N": shape[0], "C": shape[1], "HxW": math.prod(shape[2:])}
        small["group"] = _groups_left(value.shape[1], op.args["group"], keep[1])
    return small


def _groups_left(channels: int, groups: int, kept: Tensor) -> int:
    """How many groups of a group norm keep any channel. Raises ValueError where they keep unequal numbers."""
    counts = torch.zeros(channels).index_fill_(0, kept, 1).view(groups, -1).sum(1)
    if len(set(counts[counts > 0].tolist())) > 1:
        raise ValueError("the groups of a group norm keep unequal numbers of channels")
    return int((counts > 0).sum())


def _take(tensor: Tensor, keep: Sequence[Tensor]) -> Tensor:
    for dim, indices in enumerate(keep):
        tensor = tensor.index_select(dim, indices)
    return tensor


def _places(op: OpCall, value: Tensor, out: Tensor, keep: Sequence[Tensor]) -> list[Tensor]:
    """Where in each dimension of an output the results of the kept part belong."""
    dims = list(range(value.dim()))
    if out.dim() < value.dim():  # a reduction
        given = op.args.get("dim")
        reduced = dims if not given and given != 0 else [given] if isinstance(given, int) else given
        dims = [d for d in dims if d not in {r % value.dim() for r in reduced}]
    sized = zip(dims, out.shape, strict=False)
    return [keep[d] if size == value.shape[d] else torch.arange(size) for d, size in sized]


def _put(out: Tensor, part: Tensor, places: Sequence[Tensor]) -> None:
    if list(part.shape) == [len(p) for p in places]:  # otherwise moments, which the network does not see
        out.zero_()
        out[torch.meshgrid(*places, indexing="ij")] = part
