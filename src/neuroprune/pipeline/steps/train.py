"""Train the dense network; what comes out is the control and the teacher of everything after it."""

from __future__ import annotations

import copy

from neuroprune.base.files import save_tensors
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.training import FitOptions, fit_in, how_long


class TrainConfig(FitOptions):
    """Options of `train`."""


#: the weights before training, for what prunes before training
INITIAL = "initial.safetensors"


@step(
    "train",
    TrainConfig,
    summary="train the dense network; it becomes control and teacher",
    source="S2, step 1; S3",
)
def train(context: Context, config: TrainConfig) -> Outcome:
    save_tensors(context.step_folder / INITIAL, context.model.state_dict())
    curves = fit_in(context, config, label="dense training")
    context.dense = copy.deepcopy(context.model)
    value = context.task.evaluate(context.model, context.task.val)
    unit = context.task.metric_unit
    return Outcome(
        f"{how_long(curves, config.epochs)}, {context.task.metric} {value:.2f} {unit} on val".rstrip(),
        facts={"dense_metric": value},
        pieces={"curves": curves},
        files=(INITIAL,),
    )
