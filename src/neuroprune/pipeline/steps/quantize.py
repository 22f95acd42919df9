"""Static int8 from the exported file, calibrated on training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.base.errors import UserError
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export.compare import capture_inputs
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import INT8, MODEL


class QuantizeConfig(StepConfig):
    """``calibration``: how many training examples set the ranges of the activations.

    ``optional``: a network that int8 cannot express goes on in fp32, with a note in the report.
    """

    calibration: int = Field(256, ge=1)
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    exclude: tuple[str, ...] = ()
    optional: bool = False


@step(
    "quantize",
    QuantizeConfig,
    summary="static int8 of weights and activations (QDQ, per channel)",
    source="S2; S3; S4; Jacob et al. 2018",
    needs=("onnx",),
)
def quantize(context: Context, config: QuantizeConfig) -> Outcome:
    data = capture_inputs(context.model, context.task, context.task.train.epoch(None), config.calibration)
    target = context.step_folder / INT8
    try:
        report = quantize_onnx(context.files[MODEL], target, data, exclude=config.exclude, method=config.method)
    except UserError as error:
        if not config.optional:
            raise
        return Outcome(f"left out: {error.what}", pieces={"notes": [f"no int8 file: {error.what}"]})
    integer, floating = sum(report.integer.values()), sum(report.floating.values())
    return Outcome(
        f"{report.source_bytes:,} -> {report.target_bytes:,} bytes, {integer} operators in int8, "
        f"{floating} in fp32, {report.examples} examples",
        files=(INT8,),
    )
