"""The networks of MLPerf Tiny with the weights and samples of ../shared/data, as plain PyTorch modules.

TensorFlow pads to 'same' with what is left over at the end; here an `nn.ZeroPad2d` before a convolution without
padding of its own says the same, so that the convolution is an ordinary one.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from measuring import cifar
from measuring.cifar import DATA

FOLDER = DATA / "mlperf_tiny"
#: of Keras's BatchNormalization
EPS = 1e-3
#: keyword samples that calibrate; the others test
KEYWORDS = 300


def keyword_net() -> nn.Sequential:
    """DS-CNN (Zhang et al. 2017, Hello Edge) of MLPerf Tiny's keyword spotting: [N, 1, 49, 10] -> [N, 12]."""
    first = OrderedDict(pad=nn.ZeroPad2d((1, 1, 4, 5)), conv=nn.Conv2d(1, 64, (10, 4), 2))
    layers: list[nn.Module] = [nn.Sequential(first), nn.BatchNorm2d(64, EPS), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64, EPS), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64, EPS), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))
    model.load_state_dict(load_file(FOLDER / "kws_dscnn.safetensors"))
    return model.eval()


class Block(nn.Module):
    """``skip``: a 1x1 convolution where the shape changes; no batch norm behind it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.ZeroPad2d(1)
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs, EPS)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, EPS)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(self.pad(x))))
        return functional.relu(self.bn2(self.conv2(out)) + self.skip(x))


class ResNet8(nn.Module):
    """MLPerf Tiny's image classification: raw pixels 0..255 [N, 3, 32, 32] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, EPS)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn(self.conv(x))))
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]


#: Keras numbers its layers in the order in which they were made
_CONVS = ("conv", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip",
          "blocks.2.conv1", "blocks.2.conv2", "blocks.2.skip")  # fmt: skip
_NORMS = ("bn", *(f"blocks.{block}.bn{norm}" for block in range(3) for norm in (1, 2)))
_OF_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def from_keras(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keras's names and layouts (kernels HWIO, dense [inputs, outputs]) -> those of :class:`ResNet8`."""
    state = {"dense.weight": held["dense/kernel:0"].T, "dense.bias": held["dense/bias:0"]}
    for number, name in enumerate(_CONVS):
        theirs = f"conv2d_{number}" if number else "conv2d"
        state[f"{name}.weight"] = held[f"{theirs}/kernel:0"].permute(3, 2, 0, 1)
        state[f"{name}.bias"] = held[f"{theirs}/bias:0"]
    for number, name in enumerate(_NORMS):
        theirs = f"batch_normalization_{number}" if number else "batch_normalization"
        state |= {f"{name}.{ours}": held[f"{theirs}/{one}:0"] for one, ours in _OF_NORM.items()}
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return {name: value.contiguous() for name, value in state.items()}


def image_net() -> nn.Module:
    model = ResNet8()
    model.load_state_dict(from_keras(load_file(FOLDER / "resnet8_keras_layout.safetensors")))
    return model.eval()


@functools.cache
def keywords() -> tuple[Tensor, Tensor]:
    """Features [1000, 1, 49, 10] and classes [1000] of the keyword samples."""
    held = np.load(FOLDER / "kws_test_1000_mfcc_int8.npz")
    values = (held["x"].astype(np.float32) - float(held["zero_point"])) * float(held["scale"])
    return torch.from_numpy(values)[:, None], torch.from_numpy(held["y"].astype(np.int64))


@functools.cache
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lossless CIFAR-10 as raw 0..255: training images and labels (8,068), test images and labels (1,017)."""
    held = np.load(DATA / "cifar10" / "cifar10_lossless.npz")
    train, test = (torch.from_numpy(held[key]).permute(0, 3, 1, 2).float() for key in ("train_x", "test_x"))
    train_y, test_y = (torch.from_numpy(held[key].astype(np.int64)) for key in ("train_y", "test_y"))
    return train.contiguous(), train_y, test.contiguous(), test_y


def every_training_image() -> tuple[Tensor, Tensor]:
    """As raw 0..255, and their labels."""
    images, labels = cifar.every_training_image()
    return torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.from_numpy(labels)


@dataclass(frozen=True)
class Data:
    """``calibration``: without labels; ``test``, ``labels``: what is reported on, none of it calibrates."""

    calibration: Tensor
    test: Tensor
    labels: Tensor


def keyword_data(subset: int) -> Data:
    """300 of the 1,000 samples at random, and the other 700."""
    features, labels = keywords()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(subset))
    return Data(features[order[:KEYWORDS]], features[order[KEYWORDS:]], labels[order[KEYWORDS:]])


def image_data(subset: int, examples: int = 2048) -> Data:
    """``examples`` training images at random, half of them mirrored, and all test images."""
    train, _, test, labels = images()
    generator = torch.Generator().manual_seed(subset)
    chosen = train[torch.randperm(len(train), generator=generator)[:examples]]
    mirrored = torch.rand(examples, generator=generator) < 0.5
    return Data(torch.where(mirrored.view(-1, 1, 1, 1), chosen.flip(3), chosen), test, labels)
