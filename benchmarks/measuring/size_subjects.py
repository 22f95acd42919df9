"""Quantised weights to code: integers per tensor, and for clustered ones the values that they stand for."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from measuring.cifar import DATA, lossless, resnet
from neuroprune.compression.cluster import kmeans_1d
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS

Tensors = dict[str, np.ndarray]

NETWORKS = ("resnet20", "resnet56", "dscnn", "vgg16-shape")
SHARES = (0.0, 0.5, 0.8, 0.9)
FORMS = ("int8", "k16", "k64")
#: 13 convolutions and one linear layer, as S4's VGG-16 on CIFAR-10
_VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_CALIBRATION = 300


@functools.cache
def weights(network: str) -> Mapping[str, np.ndarray]:
    """Weight tensors of two and more dimensions, float32."""
    if network == "vgg16-shape":
        return _heavy_tailed()
    if network == "dscnn":
        found = load_file(DATA / "mlperf_tiny" / "kws_dscnn.safetensors")
    else:
        found = {name: p.detach().numpy() for name, p in resnet(int(network[6:])).named_parameters()}
    return {name: tensor for name, tensor in found.items() if tensor.ndim > 1}


def _heavy_tailed() -> Tensors:
    """Drawn, not trained: Student's t with 4 degrees of freedom, scales of rows and columns log-normal (0.3)."""
    draw, found, inputs = np.random.default_rng(0), {}, 3
    shapes = [(outputs, last, 3, 3) for outputs, last in zip(_VGG, (inputs, *_VGG), strict=False)]
    for number, shape in enumerate([*shapes, (10, 512)]):
        tail = [1] * (len(shape) - 2)
        rows = np.exp(draw.normal(0, 0.3, (shape[0], 1, *tail)))
        columns = np.exp(draw.normal(0, 0.3, (1, shape[1], *tail)))
        found[f"layer{number}"] = (0.02 * draw.standard_t(4, shape) * rows * columns).astype(np.float32)
    return found


def masked(network: str, share: float) -> Tensors:
    """``share`` of all weights, the smallest of the whole network, at zero."""
    tensors = weights(network)
    if not share:
        return dict(tensors)
    threshold = np.quantile(np.concatenate([np.abs(t).ravel() for t in tensors.values()]), share)
    return {name: np.where(np.abs(t) > threshold, t, np.float32(0)) for name, t in tensors.items()}


def levels(network: str, share: float, form: str) -> tuple[Tensors, Tensors]:
    """Integers around zero in the narrowest type, and what a file holds: int8, or the float32 centroids."""
    if form == "int8":
        if not share and network.startswith("resnet"):
            found = quantised_file(network)
        else:
            found = {name: int8(tensor) for name, tensor in masked(network, share).items()}
        return found, found
    pairs = {name: clustered(tensor, int(form[1:])) for name, tensor in masked(network, share).items()}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def int8(tensor: np.ndarray) -> np.ndarray:
    """Symmetric, per output channel, as `quantize_onnx` does it."""
    scale = np.abs(tensor).reshape(len(tensor), -1).max(1) / 127
    scale = np.where(scale > 0, scale, 1).reshape(-1, *[1] * (tensor.ndim - 1))
    return np.rint(tensor / scale).astype(np.int8)


def clustered(tensor: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels (0 is the centroid nearest to zero) and float32 centroids of k-means per tensor; zeros stay zeros."""
    nonzero = tensor[tensor != 0].astype(np.float64)
    has_zeros = nonzero.size < tensor.size
    found = kmeans_1d(nonzero, k - has_zeros, np.ones(nonzero.size)) if nonzero.size else np.zeros(0)
    centroids = np.unique(found)
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, tensor)
    values = np.where(tensor == 0, 0.0, centroids[nearest]) if nonzero.size else np.zeros(tensor.shape)
    table = np.unique(np.append(centroids, 0.0) if has_zeros else centroids)
    places = np.searchsorted(table, values) - np.abs(table).argmin()
    return places.astype(np.int8), values.astype(np.float32)


@functools.cache
def onnx_files(network: str) -> dict[str, bytes]:
    """The network exported, in int8 and with 4-bit weights, calibrated on training images."""
    images, onnx = lossless()[0][:_CALIBRATION], EXPORTS.get("onnx")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.write(resnet(int(network[6:])), (images[:2],), folder / "fp32")
        batches = [(part.numpy(),) for part in images.split(100)]
        for bits in (8, 4):
            quantize_onnx(folder / "fp32", folder / f"int{bits}", batches, weight_bits=bits)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def quantised_file(network: str) -> Tensors:
    """The int8 weights of the file that `quantize_onnx` writes."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.ModelProto.FromString(onnx_files(network)["int8"])
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim > 1}


SUBJECTS: dict[tuple[str, float, str], Callable[[], tuple[Tensors, Tensors]]] = {
    (network, share, form): functools.partial(levels, network, share, form)
    for network in NETWORKS
    for share in SHARES
    for form in FORMS
}
