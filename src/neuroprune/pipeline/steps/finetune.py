"""Train the cut or masked network, with the dense one as its teacher."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.training import FitOptions, fit_in, how_long
from neuroprune.recover.fit import Distill


class FinetuneConfig(FitOptions):
    """``distill``: learn from the dense network's outputs (Hinton 2015) beside the labels; ``features``: weight
    of what its blocks give in the channels that are left (Romero 2015)."""

    lr: float = Field(0.02, gt=0)
    distill: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)
    features: float = Field(0.0, ge=0)

    @field_validator("features")
    @classmethod
    def _has_a_teacher(cls, value: float, info: ValidationInfo) -> float:
        if value and not info.data.get("distill"):
            raise ValueError("it does nothing without distill")
        return value


@step(
    "finetune",
    FinetuneConfig,
    summary="fine-tune with distillation from the dense network; masks stay in force",
    source="S2, step 6; S3; Hinton et al. 2015; Romero et al. 2015",
)
def finetune(context: Context, config: FinetuneConfig) -> Outcome:
    masks = None if context.masks is None else masks_of(context, context.granularity)
    epochs = config.epochs * int(context.facts.get("fit", {}).get("epochs_factor", 1))
    distill = Distill(config.temperature, config.alpha, config.features) if config.distill else None
    label = "fine-tuning with distillation" if config.distill else "fine-tuning"
    curves = fit_in(
        context, config, label=label, epochs=epochs, distill=distill, after_step=masks.apply if masks else None
    )
    value = context.task.evaluate(context.model, context.task.val)
    unit = context.task.metric_unit
    return Outcome(
        f"{how_long(curves, epochs)}, {context.task.metric} {value:.2f} {unit} on val".rstrip(),
        pieces={"curves": curves},
    )
