"""The whole cut network learns to give what the dense network gives; no labels."""

from __future__ import annotations

from pydantic import Field

from neuroprune.pipeline.calibrating import CalibrationOptions, calibration, judged
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.recover.distill import DistillConfig, distill


class DistillOptions(CalibrationOptions):
    """``epochs`` over the examples, Adam at the peak rate ``lr``."""

    examples: int = Field(8192, ge=1)
    epochs: int = Field(2, ge=1)
    lr: float = Field(1e-3, gt=0)


@step(
    "distill",
    DistillOptions,
    summary="label-free distillation: the cut network learns the dense network's outputs",
    source="Hinton et al. 2015",
    needs=("cut",),
)
def outputs(context: Context, config: DistillOptions) -> Outcome:
    assert context.plan is not None
    options = DistillConfig(epochs=config.epochs, lr=config.lr, seed=context.seed)
    done = distill(
        context.dense, context.model, context.plan, context.task.forward, calibration(context, config), options,
        context.progress,
    )  # fmt: skip
    rows = [
        {"rung": "distillation", "layer": f"epoch {one.epoch}", "before": None, "after": one.error, "detail": ""}
        for one in done
    ]
    return Outcome(f"{config.epochs} epochs, {judged(context)}", pieces={"recovered": rows})
