"""k-means over the weights of each layer; quantisation then starts from the clustered weights."""

from __future__ import annotations

from pydantic import Field

from neuroprune.compression.cluster import cluster_weights
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step


class ClusterConfig(StepConfig):
    """``k``: distinct values that each weight tensor may keep."""

    k: int = Field(64, ge=2)


@step(
    "cluster",
    ClusterConfig,
    summary="k-means clustering of the weights of each layer",
    source="S4; S2 (weight clustering); Han et al. 2016, Deep compression",
)
def cluster(context: Context, config: ClusterConfig) -> Outcome:
    before = context.task.evaluate(context.model, context.task.val)
    report = cluster_weights(context.model, k=config.k)
    after = context.task.evaluate(context.model, context.task.val)
    metric, unit = context.task.metric, context.task.metric_unit
    return Outcome(
        f"{report.before:,} -> {report.after:,} distinct weights (k = {config.k}), "
        f"{metric} {before:.2f} -> {after:.2f} {unit}".rstrip(),
        facts={"clusters": {"k": config.k, "before": report.before, "after": report.after}},
    )
