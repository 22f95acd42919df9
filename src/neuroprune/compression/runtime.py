"""What ONNX Runtime really runs on this machine: its own optimised graph, operators on integers and on floats."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: ONNX Runtime's kernels that take and give integers
_INTEGER = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Kernels:
    """How many operators of each type run on ``integer`` and on ``floating`` values; ``conversions`` between."""

    integer: dict[str, int]
    floating: dict[str, int]
    conversions: int

    def why_slow(self) -> str:
        """What costs time in an int8 file, in words."""
        kinds = sorted(self.floating.items(), key=lambda pair: (-pair[1], pair[0]))
        named = ", ".join(f"{name} {count}" for name, count in kinds[:6])
        stay = f"{sum(self.floating.values())} operators stay in float ({named})" if kinds else "all are integer"
        return f"{stay}, {self.conversions} conversions between integers and floats"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kernels_of(path: Path) -> Kernels:
    """Of the file as ONNX Runtime optimises it here. What moves integers about counts as integer.

    Raises UserError where the runtime cannot load it.
    """
    import onnx
    import onnxruntime

    from neuroprune.export.onnx import OnnxExport

    OnnxExport().load(path)  # a clear error
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "run.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(Path(folder) / "run.onnx").graph.node
    integers: set[str] = set()
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    conversions = 0
    for node in nodes:
        if node.op_type in _CONVERSIONS:
            conversions += 1
            integers |= set(node.output) if node.op_type == "QuantizeLinear" else set()
        elif node.op_type.startswith(_INTEGER) or (node.input and node.input[0] in integers):
            integers |= set(node.output)
            integer[node.op_type] += 1
        else:
            floating[node.op_type] += 1
    return Kernels(dict(integer), dict(floating), conversions)
