"""What became of each layer's weights: bytes and distinct values, dense, cut, and in the file that is shipped."""

from __future__ import annotations

from typing import Any

import torch

from neuroprune.base.modes import evaluation
from neuroprune.compression.cluster import distinct
from neuroprune.compression.deployed import FileWeights, file_weights, in_order_of
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.steps.export import DENSE, MODEL
from neuroprune.pipeline.steps.measure import VARIANTS
from neuroprune.recover.on_grid import OnGrid, layers_with_weights


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
    rows = [_row(name, d, c, f) for name, d, c, f in zip(names, dense, cut, ordered, strict=True)]
    whole: dict[str, Any] = {key: sum(row[key] for row in rows) for key in rows[0] if key != "name"}
    together = distinct(torch.tensor(layer.values) for layer in ordered)
    return [{**whole, "name": "whole network", "final_values": together}, *rows]


def _row(name: str, dense: FileWeights, cut: FileWeights, final: FileWeights) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "weights": dense.values.size}
    for key, layer in (("dense", dense), ("cut", cut), ("final", final)):
        found[f"{key}_bytes"] = layer.stored_bytes
        found[f"{key}_distinct"] = distinct([torch.tensor(layer.numbers)])
    found["final_values"] = distinct([torch.tensor(final.values)])
    found["control_distinct"] = distinct([OnGrid(8, None)(torch.tensor(dense.values))])
    return found


def _names(context: Context, count: int) -> list[str]:
    """Of the layers in the order in which they run; numbers where they run more than once, or not as layers."""
    names: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in layers_with_weights(context.dense).items()
    ]
    try:
        with evaluation(context.dense):
            context.dense(*context.task.example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return names if len(names) == count else [f"layer {number + 1}" for number in range(count)]
