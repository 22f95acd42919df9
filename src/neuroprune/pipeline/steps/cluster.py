"""k-means over the weights, and training of the values found; quantisation starts from the clustered weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from neuroprune.compression.cluster import ClusterReport, cluster_weights, distinct
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.training import FitOptions, fit_in, how_long
from neuroprune.pruning.masks import Masks
from neuroprune.recover.fit import Distill
from neuroprune.recover.held_clusters import HeldClusters


class ClusterConfig(FitOptions):
    """``k``: distinct values that each code book may have; or ``distortion``: the sum of squared changes over the
    sum of squares that each book keeps with the fewest values. ``scope``: a book for each tensor, for each layer,
    or for the network. ``keep``: patterns of layers that stay as they are.

    ``epochs``: of training the values, with the dense network as teacher where ``distill`` is on; ``gradient``:
    of a value, the sum of its members' (Han 2016) or their mean.
    """

    k: int | None = Field(None, ge=2, le=256, description="64 where no distortion is given")
    distortion: float | None = Field(None, gt=0, lt=1)
    scope: Literal["tensor", "layer", "network"] = "tensor"
    keep: tuple[str, ...] = ()
    epochs: int = Field(0, ge=0)
    lr: float = Field(0.001, gt=0)
    gradient: Literal["sum", "mean"] = "sum"
    distill: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)

    @field_validator("distortion")
    @classmethod
    def _instead_of_k(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("k") is not None:
            raise ValueError("give k or distortion, not both")
        return value

    @property
    def values(self) -> int | None:
        return self.k if self.k is not None or self.distortion is not None else 64


@step(
    "cluster",
    ClusterConfig,
    summary="k-means clustering of the weights of each layer; the values can be trained",
    source="S4; S2 (weight clustering); Han et al. 2016, Deep compression",
)
def cluster(context: Context, config: ClusterConfig) -> Outcome:
    masks = None if context.masks is None else masks_of(context, context.granularity)
    if masks is not None:
        masks.apply()  # what is off must be zero before its value is decided
    before = context.task.evaluate(context.model, context.task.val)
    report = cluster_weights(
        context.model, k=config.values, distortion=config.distortion, scope=config.scope, keep=config.keep
    )
    curves = _trained(context, config, report, masks)
    report = _counted_again(report, context.model) if curves else report
    after = context.task.evaluate(context.model, context.task.val)
    metric, unit = context.task.metric, context.task.metric_unit
    asked = f"distortion {config.distortion:g}" if config.distortion else f"k = {config.values}"
    trained = f", {how_long(curves, config.epochs)}" if curves else ""
    facts: dict[str, Any] = {"k": config.values, "distortion": config.distortion, "scope": config.scope}
    return Outcome(
        f"{report.before:,} -> {report.after:,} distinct weights ({asked} per {config.scope}{trained}), "
        f"{metric} {before:.2f} -> {after:.2f} {unit}".rstrip(),
        facts={"clusters": {**facts, "before": report.before, "after": report.after, "error": report.error}},
        pieces={"curves": curves, "clusters": [_piece(context, report)]},
    )


def _trained(
    context: Context, config: ClusterConfig, report: ClusterReport, masks: Masks | None
) -> list[dict[str, Any]]:
    return fit_in(
        context,
        config,
        label="training of the clusters' values",
        distill=Distill(config.temperature, config.alpha) if config.distill else None,
        after_step=None if masks is None else masks.apply,
        hook=HeldClusters(context.model, [book.tensors for book in report.books], config.gradient),
    )


def _counted_again(report: ClusterReport, model: nn.Module) -> ClusterReport:
    """Two values may have become one as they were trained."""
    own = dict(model.named_parameters(remove_duplicate=False))
    layers = [replace(each, after=distinct(own[name] for name in each.tensors)) for each in report.layers]
    after = distinct(own[tensor.name] for tensor in report.tensors)
    return replace(report, after=after, layers=tuple(layers))


def _piece(context: Context, report: ClusterReport) -> dict[str, Any]:
    """An entry of ``clusters`` in results.json."""
    return {
        "step": context.name,
        "k": report.k,
        "distortion": report.distortion,
        "scope": report.scope,
        "entries": report.entries,
        "before": report.before,
        "after": report.after,
        "layers": [
            {key: getattr(layer, key) for key in ("name", "entries", "before", "after", "error")}
            for layer in report.layers
        ],
    }
