"""Networks whose shape alone counts: VGG-16 and ResNet-18 with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling


def vgg16(head: str) -> nn.Sequential:
    """Simonyan, Zisserman 2014 with batch norm. ``head``: ``one`` linear layer 512 -> 10 (CIFAR's), or ``three``
    (ImageNet's 25088 -> 4096 -> 4096 -> 1000)."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in _VGG16:
        if not outputs:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    if head == "one":
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, 1000),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.down(x))


class ResNet18(nn.Module):
    """He et al. 2015. ``size`` 32: a 3x3 stem without pooling and 10 classes; 224: ImageNet's stem, 1000."""

    def __init__(self, size: int) -> None:
        super().__init__()
        small = size <= 64
        stem: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
        if not small:
            stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
        stem += [nn.BatchNorm2d(64), nn.ReLU(), *([] if small else [nn.MaxPool2d(3, 2, 1)])]
        widths = (64, 128, 256, 512)
        blocks = [
            _Block(widths[max(n - (i == 0), 0)], widths[n], 2 if n and i == 0 else 1)
            for n in range(4)
            for i in range(2)
        ]
        self.features = nn.Sequential(*stem, *blocks)
        self.head = nn.Linear(512, 10 if small else 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def shape(network: str, size: int) -> nn.Module:
    """``vgg16``, ``vgg16-three`` (three linear layers; 224 only) or ``resnet18``, seed 0, evaluation mode."""
    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "vgg16": lambda: vgg16("one"),
        "vgg16-three": lambda: vgg16("three"),
        "resnet18": lambda: ResNet18(size),
    }
    return makers[network]().eval()
