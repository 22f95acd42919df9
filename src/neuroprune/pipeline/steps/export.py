"""Write the dense network (the control) and the compressed one for the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from neuroprune.export import EXPORTS
from neuroprune.export.compare import compare_outputs
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step

DENSE, MODEL, INT8, STORED = "dense.onnx", "model.onnx", "model.int8.onnx", "model.stored.onnx"


class ExportConfig(StepConfig):
    """``keep_names``: keep the layers' names in the file, so that ``quantize`` can exclude some by name."""

    keep_names: bool = False


@step(
    "export",
    ExportConfig,
    summary="write dense and compressed network as ONNX, compare their outputs with PyTorch's",
    source="Open Neural Network Exchange, onnx.ai",
    gives=("onnx",),
)
def export(context: Context, config: ExportConfig) -> Outcome:
    onnx = EXPORTS.get("onnx")
    metadata = metadata_of(context.task.preprocessing)
    inputs = context.task.example_inputs
    notes: list[str] = []
    errors = []
    for name, network in ((DENSE, context.dense), (MODEL, context.model)):
        path = context.step_folder / name
        written = onnx.write(network, inputs, path, metadata=metadata, keep_names=config.keep_names)
        notes += [note for note in written.notes if note not in notes]
        errors.append(compare_outputs(network, onnx.load(path), inputs).relative)
    sizes = [(context.step_folder / name).stat().st_size for name in (DENSE, MODEL)]
    return Outcome(
        f"{sizes[0]:,} -> {sizes[1]:,} bytes, largest relative difference to PyTorch {max(errors):.1e}",
        facts={"export_error": max(errors)},
        pieces={"notes": notes},
        files=(DENSE, MODEL),
    )


def metadata_of(preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """The preprocessing constants as JSON texts, which is what an ONNX file can hold."""
    return {key: json.dumps(value, sort_keys=True) for key, value in preprocessing.items()}
