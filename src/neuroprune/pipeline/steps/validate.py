"""The metric on the validation split, of everything that could be shipped."""

from __future__ import annotations

from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import INT8, MODEL, STORED


class ValidateConfig(StepConfig):
    """Options of `validate`: none of its own."""


@step(
    "validate",
    ValidateConfig,
    summary="metric on val: dense, compressed in PyTorch, fp32 and int8 files",
    source="S2, step 7",
    needs=("onnx",),
    gives=("validation",),
)
def validate(context: Context, config: ValidateConfig) -> Outcome:
    task, onnx = context.task, EXPORTS.get("onnx")
    found = {
        "dense": task.evaluate(context.dense, task.val),
        "PyTorch": task.evaluate(context.model, task.val),
    }
    for label, file in (("fp32 file", MODEL), ("int8 file", INT8), ("stored file", STORED)):
        if file in context.files:
            session = onnx.load(context.files[file], threads=context.recipe.header.threads)
            found[label] = task.evaluate(OnnxModule(session), task.val)
    shown = ", ".join(f"{label} {value:.2f}" for label, value in found.items())
    return Outcome(
        f"{task.metric} on val: {shown} {task.metric_unit}".rstrip(),
        facts={"dense_metric": found["dense"], "validation": found},
    )
