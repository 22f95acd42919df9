"""Quantisation-aware training: fine-tune with weights and layer inputs on the grid of integers."""

from __future__ import annotations

from pydantic import Field

from neuroprune.compression.distinct import is_clustered
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.training import FitOptions, fit_in, how_long
from neuroprune.recover.fit import Distill
from neuroprune.recover.held_clusters import HeldClusters
from neuroprune.recover.on_grid import layers_with_weights
from neuroprune.recover.qat import Quantization, quantized


class QatConfig(FitOptions):
    """``bits``: of the weights; 4 goes with ``quantize: {weight_bits: 4}``. ``freeze``: the share of the steps
    after which ranges and batch-norm statistics stand still. ``distill``: learn from the dense network too.

    Masks stay in force. Weights of few distinct values have one grid per tensor, and equal ones stay equal.
    """

    epochs: int = Field(3, ge=0)
    lr: float = Field(0.005, gt=0)
    bits: int = Field(8, ge=2, le=8)
    freeze: float = Field(0.5, gt=0, le=1)
    distill: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)


@step(
    "qat",
    QatConfig,
    summary="quantisation-aware training: weights and layer inputs on the integers' grid, masks in force",
    source="S2; S4; Jacob et al. 2018; Krishnamoorthi 2018",
)
def qat(context: Context, config: QatConfig) -> Outcome:
    model, masks = context.model, None if context.masks is None else masks_of(context, context.granularity)
    few = tuple(
        f"{name}.weight".removeprefix(".")
        for name, layer in layers_with_weights(model).items()
        if is_clustered(layer.get_parameter("weight").detach().cpu().numpy())
    )
    distill = Distill(config.temperature, config.alpha) if config.distill else None
    values = HeldClusters(model, [[name] for name in few], "mean")  # at the rate of single weights
    with quantized(model, Quantization(config.bits, freeze=config.freeze, clustered=few), hooks=[values]) as hook:
        curves = fit_in(
            context,
            config,
            label="quantisation-aware training",
            distill=distill,
            after_step=masks.apply if masks else None,
            hook=hook,
        )
    value = context.task.evaluate(model, context.task.val)
    return Outcome(
        f"{config.bits} bits, {how_long(curves, config.epochs)}, {context.task.metric} {value:.2f} "
        f"{context.task.metric_unit} on val".rstrip(),
        facts={"ranges": {name: list(ends) for name, ends in hook.learned().items()}},
        pieces={"curves": curves},
    )
