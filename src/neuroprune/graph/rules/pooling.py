"""Reductions, pooling and resampling: the reduced or resampled dimensions must not shrink, the others pass."""

from __future__ import annotations

from neuroprune.graph.labels import NO_LABELS, Labels
from neuroprune.graph.rules._base import OpCall, rule


@rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "mkldnn_max_pool2d",
)  # fmt: skip
def per_channel(op: OpCall) -> list[Labels]:
    """Everything behind batch and channel is mixed spatially."""
    trailing = next((count for count in (1, 2, 3) if f"{count}d" in op.name), 2)
    op.complaint = "is mixed with its neighbours by the operator"
    ndim = op.outputs[0].dim()
    kept = op.take_all("self" if "self" in op.args else "input", but=range(ndim - trailing, ndim))
    return [kept for _ in op.outputs]


@rule("max_unpool2d", "max_unpool3d")
def unpool(op: OpCall) -> list[Labels]:
    """Values and the places they came from bear the same channels."""
    ndim = op.outputs[0].dim()
    space = range(ndim - (3 if "3d" in op.name else 2), ndim)
    sides = [(op.take_all(name, but=space), op.args[name].shape[: space[0]]) for name in ("self", "indices")]
    return [op.meet(sides, space[0])]


@rule("tril", "triu")
def triangle(op: OpCall) -> list[Labels]:
    """Rows and columns are told apart by their numbers."""
    op.complaint = "is cut to a triangle"
    ndim = op.outputs[0].dim()
    return [op.take_all("self", but=(ndim - 2, ndim - 1))]


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sample(op: OpCall) -> list[Labels]:
    """input: [N, C, *space]: channels pass."""
    channels = op.take("input", 1)
    return [{1: channels} if channels is not None else NO_LABELS]


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "prod", "logsumexp", "linalg_vector_norm", "norm")
def reduction(op: OpCall) -> list[Labels]:
    """Reduced labels are consumed: the cut network reduces over what is kept."""
    return _reduce(op, over_labels=op.name not in ("prod", "norm"))


@rule("max", "min", "any", "all", "argmax", "argmin", "cummax", "cummin", "cumsum", "cumprod", "median",
      "topk", "sort", "kthvalue", "mode", "logcumsumexp", "count_nonzero")  # fmt: skip
def order_or_position(op: OpCall) -> list[Labels]:
    """Results that name positions, or depend on the order: not over labels."""
    return _reduce(op, over_labels=False)


def _reduce(op: OpCall, *, over_labels: bool) -> list[Labels]:
    op.complaint = "a reduction over this dimension would change"
    value = op.args.get("self")
    if value is None or not value.dim():
        return [NO_LABELS for _ in op.outputs]
    ndim = value.dim()
    given = op.args.get("dim", op.args.get("dims"))
    if given is None and op.name in ("topk", "sort", "kthvalue", "median", "mode"):
        given = -1
    dims = range(ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
    reduced = {dim % ndim for dim in dims}
    kept = op.take_all(value, but=sorted(reduced))
    if over_labels:
        for vector in (op.take(value, dim) for dim in reduced):
            op.consume(vector)
            if op.name not in ("sum", "linalg_vector_norm"):
                op.statistic(vector)
    return [_without(kept, reduced) if out.dim() < ndim else kept for out in op.outputs]


def _without(labels: Labels, reduced: set[int]) -> Labels:
    """Labels of a result whose reduced dimensions are gone."""
    return {dim - sum(r < dim for r in reduced): vector for dim, vector in labels.items()}
