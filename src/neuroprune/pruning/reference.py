"""What a cut network must compute: the dense network with the dropped channels masked.

Two references. :func:`zeroed` only zeroes weights at the plan's indices and shares nothing with the engine. Where
statistics over channels change (layer norm, softmax, attention's default scale) it cannot serve: there
:func:`masked_outputs` runs the dense network, zeroes the dropped labels after every operator and takes every
statistic over the kept ones.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

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
from neuroprune.pruning.surgery import masked, named_tensors


def zeroed(dense: nn.Module, plan: Plan) -> nn.Module:
    """A copy of ``dense`` with the plan's indices set to zero in every tensor, and the blocks that go silent."""
    reference = copy.deepcopy(dense)
    for name, tensor in named_tensors(reference).items():
        tensor.data = masked(tensor.data, plan.removed.get(name, {}))
    silence(reference, plan.bypassed)
    return reference


def masked_outputs(reference: nn.Module, found: Trace, plan: Plan, inputs: Any, seed: int) -> list[Any]:
    """One output per example call of ``reference`` (see :func:`zeroed`), masked after every operator.

    A model may take another way with data than without (a mask built or left out). Then labels are numbered
    otherwise than in ``found``, and are collected anew in a run with data.
    """
    assert found.components is not None
    mode = _MaskMode(_gone(found.components, found.owners, plan))
    with contextlib.suppress(UserError):  # with labels numbered otherwise, anything may happen
        outputs = _run(reference, mode, inputs, seed)
        if mode.digest == found.digest:
            return outputs
    own = LabelMode()
    _run(reference, own, inputs, seed)
    mode = _MaskMode(_gone(resolve(own.records), own.owners, plan))
    outputs = _run(reference, mode, inputs, seed)
    if mode.digest != own.digest:
        raise RuntimeError("two runs of the model execute different operators")
    return outputs


def _run(reference: nn.Module, mode: LabelMode, inputs: Any, seed: int) -> list[Any]:
    outputs = []
    with labelled(reference, mode) as sizes, torch.random.fork_rng(devices=[]), in_float64():
        for args, kwargs in as_calls(inputs):
            torch.manual_seed(seed)
            own = map_tensors(torch.clone, (args, kwargs))
            outputs.append(watched(reference, mode, sizes, *own))
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
        """The operator on the kept part of its arguments, put where it belongs in the full-size output."""
        small = tree_map(lambda x: self._kept(x) if isinstance(x, Tensor) else x, op.args)
        if op.name in ("native_layer_norm", "_fused_rms_norm"):
            behind = len(op.args["normalized_shape"])
            small["normalized_shape"] = list(small["input"].shape[-behind:])
        if op.name == "native_group_norm":
            self._resize_groups(op, small)
        func: Any = op.func or getattr(torch.nn.functional, op.name)
        result = func(**small)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        for out, part in zip(op.outputs, results, strict=True):
            self._put(out, part)

    def _resize_groups(self, op: OpCall, small: dict[str, Any]) -> None:
        batch, channels = small["input"].shape[:2]
        group = op.counted.get("num_groups")
        if group is not None:
            small["group"] = int((~self.gone[group]).sum())
        small["N"], small["C"] = batch, channels
        small["HxW"] = small["input"].numel() // (batch * channels)

    def _kept(self, tensor: Tensor) -> Tensor:
        for dim, vector in self.labels_of(tensor).items():
            tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(~self.gone[vector])))
        return tensor

    def _put(self, out: Tensor, part: Tensor) -> None:
        index = [torch.arange(size) for size in out.shape]
        for dim, vector in self.labels_of(out).items():
            index[dim] = torch.from_numpy(np.flatnonzero(~self.gone[vector]))
        if part.shape == torch.Size(len(i) for i in index):
            out.zero_()
            out[torch.meshgrid(*index, indexing="ij")] = part
