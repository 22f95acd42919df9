"""Weights of few distinct values (clustered, pruned) keep as few as integers.

A scale per channel would give every channel integers of its own, so such a tensor gets one scale. Where the export
has folded a batch norm into it, each channel is the clustered tensor times a factor; the scales then carry the
factors, and the integers are those of the clustered tensor (with the sign turned where the factor is negative).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroprune.compression.layers import array_of, constants_of, layers_of, put

if TYPE_CHECKING:
    from onnx import ModelProto

Overrides = dict[str, list[dict[str, Any]]]

#: integers there are
_MOST = 256
#: a tensor is clustered where each value stands for so many weights on average, zeros aside
_SHARED = 2


def is_clustered(weight: np.ndarray) -> bool:
    """At most 256 distinct values, and each of the non-zero ones several times on average."""
    values = weight[weight != 0]
    few = len(np.unique(values))
    return bool(values.size) and few + (values.size < weight.size) <= _MOST and few * _SHARED <= values.size


def keep_distinct(proto: ModelProto, originals: Sequence[np.ndarray], top: int) -> Overrides:
    """What ONNX Runtime's quantiser must be told so that clustered weights of ``proto`` keep their values.

    ``originals``: clustered weights [out, ...] as they were before a batch norm was folded into them; the kernels
    of ``proto`` that are one of them times a factor per channel are put on the integers' grid in place. ``top``:
    the largest integer.
    """
    from onnxruntime import quantization as q

    constants, found = constants_of(proto), Overrides()
    for layer in layers_of(proto):
        if layer.weight in found:
            continue
        weight = array_of(constants[layer.weight])
        match = _matching(weight, originals) if layer.axis == 0 else None
        if match is not None and not np.allclose(match[1], 1, atol=1e-6):
            value, scales = _on_grid(*match, top)
            put(constants[layer.weight], value)
            found[layer.weight] = [
                {"quant_type": q.QuantType.QInt8, "axis": 0, "scale": scale, "zero_point": np.array(0, np.int8)}
                for scale in scales
            ]
        elif match is not None or is_clustered(weight):
            found[layer.weight] = [{"quant_type": q.QuantType.QInt8, "symmetric": True}]
    return found


def _on_grid(original: np.ndarray, factors: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The original on the integers' grid times the factors, and the scale of each channel."""
    grid = float(np.abs(original).max()) / top
    scales = np.where(factors == 0, grid, np.abs(factors) * grid).astype(np.float32)
    signs = np.sign(factors)
    shape = (-1, *[1] * (original.ndim - 1))
    return np.rint(original / grid) * (signs * scales).reshape(shape), scales


def _matching(weight: np.ndarray, originals: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The original that ``weight`` is a multiple of in each channel, and the factors."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    for original in originals:
        if original.shape != weight.shape:
            continue
        base = original.reshape(rows.shape).astype(np.float64)
        factors = (rows * base).sum(1) / np.maximum((base * base).sum(1), 1e-300)
        if np.abs(rows - factors[:, None] * base).max() <= 1e-5 * np.abs(rows).max():
            return original.astype(np.float64), factors
    return None
