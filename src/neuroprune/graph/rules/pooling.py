"""Reductions, pooling and resampling: the reduced or resampled dimensions must not shrink, the others pass."""

from __future__ import annotations

from neuroprune.graph.labels import Factor, Factors
from neuroprune.graph.rules._base import OpCall, rule


@rule(
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "max_pool1d",
    "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d", "max_pool2d",
    "upsample_bicubic2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "mkldnn_max_pool2d",
)  # fmt: skip
def per_channel(op: OpCall) -> list[Factors]:
    """Everything behind batch and channel is mixed spatially."""
    spatial = {1: 1, 2: 2, 3: 3}  # how many trailing dimensions the operator works on
    name = op.func.overloadpacket.__name__
    trailing = next((count for digit, count in ((d, spatial[d]) for d in spatial) if f"{digit}d" in name), 2)
    ndim = op.outputs[0].dim()
    kept = tuple(f for f in op.factors("self" if "self" in op.args else "input") if max(f.dims) < ndim - trailing)
    op.keep(*kept)
    return [kept for _ in op.outputs]


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "prod", "any", "all", "logsumexp",
      "linalg_vector_norm", "norm", "cumsum", "argmax", "argmin", "topk", "sort")  # fmt: skip
def reduction(op: OpCall) -> list[Factors]:
    op.complaint = "a reduction over this dimension would change"
    value = op.args.get("self")
    if value is None or any(out.dim() == 0 for out in op.outputs):
        return [() for _ in op.outputs]
    ndim = value.dim()
    given = op.args.get("dim", op.args.get("dims"))
    dims = range(ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
    reduced = {dim % ndim for dim in dims}
    kept = tuple(f for f in op.factors("self") if not f.dims & reduced)
    op.keep(*kept)
    same_rank = op.outputs[0].dim() == ndim
    return [tuple(f if same_rank else _drop(f, reduced) for f in kept) for _ in op.outputs]


def _drop(factor: Factor, reduced: set[int]) -> Factor:
    """The factor of a result whose reduced dimensions are gone."""
    labels = factor.labels
    for dim in sorted(reduced, reverse=True):
        labels = labels.squeeze(dim)
    return Factor(labels, frozenset(d - sum(r < d for r in reduced) for d in factor.dims))
