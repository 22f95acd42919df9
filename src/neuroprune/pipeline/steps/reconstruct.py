"""Each block of the cut network learns to give what the dense network's block gives; no labels."""

from __future__ import annotations

from pydantic import Field

from neuroprune.pipeline.calibrating import CalibrationOptions, calibration, judged
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.recover.reconstruct import ReconstructConfig, reconstruct


class ReconstructOptions(CalibrationOptions):
    """``steps`` of Adam per block at the peak rate ``lr``, ``batch`` examples each."""

    steps: int = Field(300, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(64, ge=1)


@step(
    "reconstruct",
    ReconstructOptions,
    summary="blocks learn the dense network's blocks, one after another; no labels",
    source="BRECQ, Li et al. 2021",
    needs=("cut",),
)
def blocks(context: Context, config: ReconstructOptions) -> Outcome:
    assert context.plan is not None
    options = ReconstructConfig(steps=config.steps, lr=config.lr, batch=config.batch, seed=context.seed)
    done = reconstruct(
        context.dense, context.model, context.plan, context.task.forward, calibration(context, config), options,
        context.progress,
    )  # fmt: skip
    rows = [
        {"rung": "reconstruction", "layer": one.block, "before": one.before, "after": one.after, "detail": ""}
        for one in done
    ]
    return Outcome(f"{len(done)} blocks, {judged(context)}", pieces={"recovered": rows})
