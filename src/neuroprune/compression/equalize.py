"""Cross-layer equalisation: channels between two layers scaled so that both layers' weights fill their ranges.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1. What lies
between the layers is positively homogeneous (ReLU, pooling), so the network computes what it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroprune.compression.layers import Layer, array_of, attribute, constants_of, layers_of, put

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: f(s x) = s f(x) for s > 0, channel by channel
_HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"}
_SWEEPS, _SETTLED = 20, 1e-3
#: a channel that is almost dead on one side is not blown up without end
_LARGEST = 1e3


@dataclass(frozen=True)
class Pair:
    """``first`` feeds ``second`` and nothing else; ``groups``: of the second where it is a convolution."""

    first: Layer
    second: Layer
    groups: int


def equalize(proto: ModelProto, leave: Collection[str] = ()) -> int:
    """Equalise ``proto`` in place until nothing moves; the number of pairs found.

    ``leave``: weights whose input channels must not be scaled (clustered ones).
    """
    pairs = [pair for pair in pairs_of(proto) if pair.second.weight not in leave]
    constants = constants_of(proto)
    held = {name: array_of(constants[name]).astype(np.float64) for p in pairs for name in _names(p)}
    for _ in range(_SWEEPS):
        if max((_equalize(pair, held) for pair in pairs), default=0.0) < _SETTLED:
            break
    for name, value in held.items():
        put(constants[name], value)
    return len(pairs)


def _names(pair: Pair) -> list[str]:
    return [n for n in (pair.first.weight, pair.first.bias, pair.second.weight) if n is not None]


def _equalize(pair: Pair, held: dict[str, np.ndarray]) -> float:
    """One pair; the largest logarithm of a factor."""
    first = np.moveaxis(held[pair.first.weight], pair.first.axis, 0)
    second = _by_input(held[pair.second.weight], pair)
    r1, r2 = _reach(first), _reach(second)
    alive = (r1 > 0) & (r2 > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(alive, np.clip(np.sqrt(r1 / r2), 1 / _LARGEST, _LARGEST), 1.0)
    first /= s.reshape(-1, *[1] * (first.ndim - 1))  # a view
    if pair.first.bias is not None:
        held[pair.first.bias] = held[pair.first.bias] / s
    second *= s.reshape(-1, *[1] * (second.ndim - 1))
    held[pair.second.weight] = _from_input(second, held[pair.second.weight].shape, pair)
    return float(np.abs(np.log(s)).max())


def _reach(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(rows.reshape(len(rows), -1)).max(1))


def _by_input(weight: np.ndarray, pair: Pair) -> np.ndarray:
    """[input channels, ...], a copy: a group of a convolution has input channels of its own."""
    if pair.second.operator != "Conv":
        return np.moveaxis(weight, 1 - pair.second.axis, 0).copy()
    outputs, inputs = weight.shape[:2]
    grouped = weight.reshape(pair.groups, outputs // pair.groups, inputs, -1)
    return grouped.transpose(0, 2, 1, 3).reshape(pair.groups * inputs, -1).copy()


def _from_input(rows: np.ndarray, shape: tuple[int, ...], pair: Pair) -> np.ndarray:
    if pair.second.operator != "Conv":
        return np.moveaxis(rows, 0, 1 - pair.second.axis).reshape(shape)
    outputs, inputs = shape[:2]
    grouped = rows.reshape(pair.groups, inputs, outputs // pair.groups, -1)
    return grouped.transpose(0, 2, 1, 3).reshape(shape)


def pairs_of(proto: ModelProto) -> list[Pair]:
    """Layers joined by homogeneous operators alone, each value read once, each weight used once."""
    graph, constants = proto.graph, constants_of(proto)
    layers = {layer.node: layer for layer in layers_of(proto)}
    used = Counter(name for node in graph.node for name in node.input)
    reader = {name: node for node in graph.node for name in node.input}
    outside = {value.name for value in graph.output}
    found = []
    for node in graph.node:
        first, end = layers.get(node.name), node
        if first is None or not _own(first, used) or (len(node.input) > 2 and first.bias is None):
            continue  # a bias that is computed would have to be scaled as well
        while (follower := _follower(end, used, reader, outside)) is not None:
            end = follower
            second = layers.get(end.name)
            if second is not None:
                if _fits(constants, first, second, end) and _own(second, used):
                    found.append(Pair(first, second, attribute(end, "group", 1)))
                break
            if end.op_type not in _HOMOGENEOUS:
                break
    return found


def _own(layer: Layer, used: Counter[str]) -> bool:
    return used[layer.weight] == 1 and (layer.bias is None or used[layer.bias] == 1)


def _follower(
    node: NodeProto, used: Counter[str], reader: dict[str, NodeProto], outside: set[str]
) -> NodeProto | None:
    """The only reader of the node's only output, as its first input."""
    out = node.output[0]
    if len(node.output) != 1 or used[out] != 1 or out in outside:
        return None
    found = reader[out]
    return found if found.input[0] == out else None


def _fits(constants: Mapping[str, TensorProto], first: Layer, second: Layer, node: NodeProto) -> bool:
    """Whether the channels of one are the channels of the other."""
    if (first.operator == "Conv") != (second.operator == "Conv") or attribute(node, "transA", 0):
        return False  # a matrix behind a convolution works on its width
    outputs = constants[first.weight].dims[first.axis]
    dims = constants[second.weight].dims
    if second.operator == "Conv":
        return bool(outputs == dims[1] * attribute(node, "group", 1))
    return len(dims) == 2 and bool(outputs == dims[1 - second.axis])
