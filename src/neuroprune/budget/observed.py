"""Which layers run on the example, how often, and between tensors of which shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuroprune.base.modes import evaluation
from neuroprune.devices.single_layer import LayerShape, Precision
from neuroprune.graph.calls import as_call, tensors_in


@dataclass(frozen=True)
class Call:
    """One run of a linear or convolutional layer on ``examples`` examples. ``weight``: its parameter; shapes with
    the batch in front, which may be a multiple of the examples (windows of an image, say)."""

    weight: str
    module: Any
    input: tuple[int, ...]
    output: tuple[int, ...]
    examples: int

    @property
    def values(self) -> int:
        """Of the weight."""
        return int(self.module.weight.numel())

    @property
    def macs(self) -> int:
        """Multiply-accumulates per example."""
        own = self.input if isinstance(self.module, _ConvTransposeNd) else self.output
        return self.values * (_size(own) // int(self.module.weight.shape[0])) // self.examples

    @property
    def read(self) -> int:
        """Values of the input per example."""
        return _size(self.input) // self.examples

    @property
    def written(self) -> int:
        """Values of the output per example."""
        return _size(self.output) // self.examples

    def shares(self, rows: float, columns: float) -> tuple[float, float]:
        """What is left of the inputs and of the outputs, given what is left of dimension 0 and 1 of the weight."""
        own, other = rows, columns if getattr(self.module, "groups", 1) == 1 else rows * columns
        return (own, other) if isinstance(self.module, _ConvTransposeNd) else (other, own)

    def shape(self, batch: int, precision: Precision) -> LayerShape:
        """As a runtime meets it, for ``batch`` examples."""
        module = self.module
        batch = max(1, self.input[0] * batch // self.examples)
        if isinstance(module, nn.Linear):
            return LayerShape(
                "Linear",
                module.out_features,
                module.in_features,
                self.input[1:-1],
                batch=batch,
                precision=precision,
            )
        transposed = isinstance(module, _ConvTransposeNd)
        extra = tuple(int(n) for n in module.output_padding) if transposed and any(module.output_padding) else ()
        return LayerShape(
            "ConvTranspose" if transposed else "Conv",
            module.out_channels, module.in_channels, self.input[2:], tuple(module.kernel_size),
            tuple(module.stride), _pads(module), tuple(module.dilation), extra, module.groups, batch, precision,
        )  # fmt: skip


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _pads(module: Any) -> tuple[int, ...]:
    """PyTorch's padding in ONNX's order; other values than zeros around are timed as if they were zeros."""
    rank = len(module.kernel_size)
    if isinstance(module.padding, str):
        pairs = list(module._reversed_padding_repeated_twice)  # last dimension first: begin, end
        begins, ends = pairs[0::2][::-1], pairs[1::2][::-1]
        return tuple(int(n) for n in (*begins, *ends))
    return tuple(int(module.padding[n % rank]) for n in range(2 * rank))


def calls(model: nn.Module, example: Any) -> list[Call]:
    """In the order in which they run on ``example`` (as ``neuroprune.trace`` takes it)."""
    found: list[Call] = []
    args, kwargs = as_call(example)
    examples = next((len(x) for x in tensors_in((args, kwargs)) if x.dim()), 1)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}

    def saw(name: str, module: nn.Module, given: Any, output: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(output, Tensor):
            rank, weight = _rank(module), f"{name}.weight" if name else "weight"
            shapes = [tuple(x.shape) if x.dim() > rank else (1, *x.shape) for x in (given[0], output)]
            found.append(Call(weight, module, shapes[0], shapes[1], 1 if given[0].dim() == rank else examples))

    hooks = [m.register_forward_hook(lambda m, a, o, n=n: saw(n, m, a, o)) for n, m in layers.items()]
    try:
        with evaluation(model):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rank(module: Any) -> int:
    """Dimensions of one example of a layer's input."""
    return 1 if isinstance(module, nn.Linear) else len(module.kernel_size) + 1
