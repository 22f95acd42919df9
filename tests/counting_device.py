"""A device whose latency follows from the file: so much per call, so much per multiply-accumulate. No clock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from neuroprune.devices import DEVICES, Inputs, Latency, Memory, inputs_of

PER_CALL, PER_MAC = 0.01, 1e-6


def macs(path: Path, shapes: list[tuple[int, ...]]) -> float:
    """Of the file's contractions on inputs of ``shapes``; those on integers count a quarter."""
    model = onnx.load(path)
    for value, shape in zip(model.graph.input, shapes, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
             for v in (*graph.input, *graph.value_info, *graph.output)}  # fmt: skip
    sizes |= {t.name: list(t.dims) for t in graph.initializer}
    integer = {out for n in graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    total = 0.0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        weight = sizes[node.input[1]]
        if node.op_type == "MatMul":
            found = np.prod(sizes[node.output[0]]) * weight[-2]
        elif node.op_type == "ConvTranspose":
            found = np.prod(sizes[node.input[0]]) / weight[0] * np.prod(weight)
        else:
            out = sizes[node.output[0]]
            found = np.prod(out) / out[1] * np.prod(weight)
        total += float(found) * (0.25 if node.input[0] in integer else 1.0)
    return total


class CountingDevice:
    """``jitter``: factors that measurements are off by, in turn. ``calls``: files timed."""

    name = "counting"

    def __init__(self, jitter: tuple[float, ...] = (1.0,)) -> None:
        self.jitter, self.calls, self.version = jitter, 0, "1"

    def facts(self) -> dict[str, str | int | None]:
        return {"cpu": "none", "onnxruntime": self.version}

    def measure(
        self, files: Mapping[str, Path], inputs: Inputs, *, threads: int = 1, seconds: float = 3.0
    ) -> dict[str, Latency]:
        found = {}
        for name, path in files.items():
            arrays = inputs_of(inputs, name)
            off = self.jitter[self.calls % len(self.jitter)]
            ms = (PER_CALL + PER_MAC * macs(path, [a.shape for a in arrays])) * off
            found[name] = Latency(ms, ms, ms, ms, 1, threads, len(arrays[0]))
            self.calls += 1
        return found

    def memory(self, file: Path, inputs: object, *, threads: int = 1) -> Memory:
        return Memory(peak=1000 + 3 * file.stat().st_size, baseline=1000, source="three files")


@contextlib.contextmanager
def counting(jitter: tuple[float, ...] = (1.0,)) -> Iterator[CountingDevice]:
    """Registered as ``counting`` for a while."""
    device = CountingDevice(jitter)
    DEVICES.register("counting", summary="counts")(device)
    try:
        yield device
    finally:
        DEVICES.unregister("counting")
