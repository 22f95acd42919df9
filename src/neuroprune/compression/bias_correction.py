"""Bias correction: the mean error that rounding gives a layer's output on calibration data comes off its bias.

Nagel et al. 2019, "Data-free quantization", section 4.2 and appendix D (empirical): layer after layer, each behind
layers that are corrected already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuroprune.compression.layers import array_of, constants_of, layers_of, nodes_for, put
from neuroprune.compression.watch import Batch, Watched

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def correct_biases(floating: ModelProto, integer: ModelProto, batches: Sequence[Batch]) -> None:
    """Correct the biases of ``integer`` (QDQ form of ``floating``) in place.

    Layers without a bias get one; MatMul, which can have none, is left as it is. Time: half a pass over
    ``batches`` for every layer.
    """
    from onnx import numpy_helper

    twins = {layer.node: layer for layer in layers_of(floating) if layer.operator != "MatMul"}
    theirs = {node.name: node for node in integer.graph.node}
    targets = _means(floating, [node for node in floating.graph.node if node.name in twins], batches)
    constants = constants_of(integer)
    restored = {out for node in integer.graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    uses = Counter(name for node in integer.graph.node for name in node.input)
    for name, layer in twins.items():
        node = theirs[name]
        if node.input[1] not in restored or (len(node.input) > 2 and layer.bias is None):
            continue
        shift = targets[node.name] - _means(_up_to(integer, node), [node], batches)[node.name]
        value = shift if layer.bias is None else array_of(constants[layer.bias]) + shift
        if layer.bias is not None and uses[layer.bias] == 1:
            put(constants[layer.bias], value)
        else:  # none yet, or the bias of several layers
            fresh = numpy_helper.from_array(value.astype(np.float32), f"{name}.corrected_bias")
            integer.graph.initializer.append(fresh)
            node.input[2:] = [fresh.name]


def _means(proto: ModelProto, nodes: Sequence[NodeProto], batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """The mean output of each of ``nodes`` per channel, over examples and positions."""
    outputs = {node.output[0]: node for node in nodes}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for tensors in Watched(proto, list(outputs)).run(batches):
        for output, node in outputs.items():
            value = tensors[output].astype(np.float64)
            axis = 1 if node.op_type == "Conv" else value.ndim - 1
            others = tuple(d for d in range(value.ndim) if d != axis)
            sums[node.name] = sums.get(node.name, 0.0) + value.sum(others)
            counts[node.name] = counts.get(node.name, 0) + value.size // value.shape[axis]
    return {name: value / counts[name] for name, value in sums.items()}


def _up_to(proto: ModelProto, node: NodeProto) -> ModelProto:
    """The part of the graph that ``node`` needs, with its output as the only one."""
    nodes = nodes_for(proto, node.output[0])
    needed = {name for one in nodes for name in one.input}
    part = type(proto)()
    part.ir_version = proto.ir_version
    part.opset_import.extend(proto.opset_import)
    part.graph.name = "part"
    part.graph.node.extend(nodes)
    part.graph.input.extend(proto.graph.input)
    part.graph.initializer.extend(t for t in proto.graph.initializer if t.name in needed)
    part.graph.output.add(name=node.output[0])
    return part
