"""ONNX files of one layer: what a latency table times."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

#: of operators and of the file format: what every supported runtime reads
_OPSET, _IR_VERSION = 18, 10
Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class LayerShape:
    """A layer as a runtime meets it. ``space``: the input's sizes between channels and end (convolution), or
    between batch and features (linear). ``pads`` in ONNX's order: all begins, all ends."""

    operator: Literal["Conv", "ConvTranspose", "Linear"]
    outputs: int
    inputs: int
    space: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1
    precision: Precision = "fp32"

    @property
    def sizes(self) -> tuple[int, int]:
        """Steps along dimension 0 and 1 of PyTorch's weight; dimension 0 of a grouped layer goes by whole groups.

        Rows that go evenly out of every group leave the same multiply-accumulates, and are not told apart.
        """
        sides = (self.outputs, self.inputs) if self.operator != "ConvTranspose" else (self.inputs, self.outputs)
        return (sides[0], sides[1]) if self.groups == 1 else (self.groups, sides[1] // self.groups)

    def narrowed(self, first: int, second: int) -> LayerShape:
        """The layer with so many steps left along each dimension of the weight (see ``sizes``)."""
        if self.groups == 1:
            ours = (first, second) if self.operator != "ConvTranspose" else (second, first)
            return replace(self, outputs=ours[0], inputs=ours[1])
        transposed = self.operator == "ConvTranspose"
        own = first * ((self.inputs if transposed else self.outputs) // self.groups)
        other = first * second
        outputs, inputs = (other, own) if transposed else (own, other)
        return replace(self, outputs=outputs, inputs=inputs, groups=first)

    @property
    def weights(self) -> int:
        """Values of the weight."""
        return self.outputs * self.inputs // self.groups * int(np.prod(self.kernel or (1,)))

    @property
    def integer(self) -> bool:
        """Computed on integers; ONNX Runtime has no integer kernel for transposed convolutions."""
        return self.precision == "int8" and self.operator != "ConvTranspose"

    def example(self) -> np.ndarray:
        """What the file takes: float32, or uint8 for an integer layer."""
        ours = (self.inputs, *self.space) if self.operator != "Linear" else (*self.space, self.inputs)
        generator = np.random.default_rng(0)
        if self.integer:
            return generator.integers(0, 256, (self.batch, *ours)).astype(np.uint8)
        return generator.standard_normal((self.batch, *ours)).astype(np.float32)


def write_layer(path: Path, shape: LayerShape, copies: int = 1) -> None:
    """One layer with bias and ReLU; ``copies`` of it, each with weights of its own, on the same input.

    The float layers' outputs are summed, which runtimes do inside the convolution; those of integer layers are
    outputs of the file. Raises no errors of its own.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(shape)
    outputs = [graph.layer(f"_{n}") for n in range(copies)]
    if not shape.integer and copies > 1:
        outputs = [graph.add("Sum", outputs)]
    kind = TensorProto.UINT8 if shape.integer else TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, shape.example().shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION), path)


@dataclass
class _Graph:
    """Nodes and constants under way; every method returns the name of a value."""

    shape: LayerShape
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def layer(self, mark: str) -> str:
        conv = self.shape.operator != "Linear"
        x = self.read("x", np.uint8(128)) if self.shape.integer else "x"
        if not conv and self.shape.space:
            y = self.add("MatMul", [x, self.weight((self.shape.inputs, self.shape.outputs), 1)])
            if self.shape.integer:
                y = self.read(self.write(y, np.uint8(128)), np.uint8(128))
            y = self.add("Add", [y, self.bias()])
        else:
            y = self.add(self.shape.operator if conv else "Gemm", [x, self.weight(self.sizes(), 0), self.bias()],
                         **(self.attributes() if conv else {"transB": 1}))  # fmt: skip
        y = self.add("Relu", [y])
        return self.write(y, np.uint8(0)) if self.shape.integer else y  # zero point 0: the ReLU is in the rounding

    def sizes(self) -> tuple[int, ...]:
        """Of the weight, as PyTorch and ONNX have it."""
        first, second = self.shape.outputs, self.shape.inputs
        if self.shape.operator == "ConvTranspose":
            first, second = second, first
        return (first, second // self.shape.groups, *self.shape.kernel)

    def attributes(self) -> dict[str, Any]:
        shape = self.shape
        found = {"kernel_shape": shape.kernel, "strides": shape.stride, "pads": shape.pads,
                 "dilations": shape.dilation, "group": shape.groups}  # fmt: skip
        return found | ({"output_padding": shape.output_padding} if any(shape.output_padding) else {})

    def weight(self, sizes: tuple[int, ...], axis: int) -> str:
        """Random, per channel along ``axis`` where integer."""
        if not self.shape.integer:
            scale = (np.prod(sizes) / self.shape.outputs) ** -0.5
            return self.constant((self.generator.standard_normal(sizes) * scale).astype(np.float32))
        values = self.generator.integers(-127, 128, sizes).astype(np.int8)
        scales = np.full(sizes[axis], 0.01, np.float32)
        names = [self.constant(v) for v in (values, scales, np.zeros(sizes[axis], np.int8))]
        return self.add("DequantizeLinear", names, axis=axis)

    def bias(self) -> str:
        return self.constant(self.generator.standard_normal(self.shape.outputs).astype(np.float32))

    def read(self, name: str, zero: np.uint8) -> str:
        return self.add("DequantizeLinear", [name, self.constant(np.float32(0.02)), self.constant(zero)])

    def write(self, name: str, zero: np.uint8) -> str:
        return self.add("QuantizeLinear", [name, self.constant(np.float32(0.05)), self.constant(zero)])

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name
