"""What became of each layer's weights: bytes and distinct values, dense, cut, and in the file that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from neuroprune.base.modes import evaluation
from neuroprune.compression.deployed import FileWeights, distinct, file_weights, in_order_of, plain_int8
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.steps.export import DENSE, MODEL
from neuroprune.pipeline.steps.measure import VARIANTS

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)


def weight_rows(context: Context) -> list[dict[str, Any]]:
    """One row per layer and one for the whole network, which comes first; [] where layers went altogether.

    Distinct numbers are counted as they are stored (integers before their scales), layer by layer, since each
    layer has its own scale or code book; the network's are their sum. ``values``: with the scales applied, as the
    runtime multiplies. ``control``: the numbers of plain 8 bits, one scale per tensor, on the dense network.
    """
    shipped = VARIANTS[context.facts["chosen"]][0]
    dense, cut, final = (file_weights(context.files[name]) for name in (DENSE, MODEL, shipped))
    ordered = in_order_of(cut, final)
    if not dense or not ordered or len(dense) != len(cut):
        return []
    names = _names(context, len(dense))
    rows = [_row(name, [d], [c], [f]) for name, d, c, f in zip(names, dense, cut, ordered, strict=True)]
    return [_row("whole network", dense, cut, ordered), *rows]


def _row(
    name: str, dense: Sequence[FileWeights], cut: Sequence[FileWeights], final: Sequence[FileWeights]
) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "weights": sum(w.values.size for w in dense)}
    for key, parts in (("dense", dense), ("cut", cut), ("final", final)):
        found[f"{key}_bytes"] = sum(w.stored_bytes for w in parts)
        found[f"{key}_distinct"] = sum(distinct([w.numbers]) for w in parts)
    found["final_values"] = distinct([w.values for w in final])
    found["control_distinct"] = sum(distinct([plain_int8(w.values)]) for w in dense)
    return found


def _names(context: Context, count: int) -> list[str]:
    """Of the layers in the order in which they run; numbers where they run more than once, or not as layers."""
    names: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in context.dense.named_modules()
        if isinstance(module, _LAYERS)
    ]
    try:
        with evaluation(context.dense):
            context.dense(*context.task.example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return names if len(names) == count else [f"layer {number + 1}" for number in range(count)]
