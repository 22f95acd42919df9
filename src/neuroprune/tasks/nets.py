"""Small networks for the demo, the examples and the tests."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015, arXiv:1512.03385, figure 5 left).

    The shortcut is a 1x1 projection where the shape changes (option B). [N, inputs, H, W] ->
    [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Convolutional stem, stages of basic blocks that double the width and halve the size, linear head.

    [N, channels, H, W] -> [N, classes]; H and W are any multiple of 2 ** (stages - 1).
    """

    def __init__(self, *, width: int, stages: int, blocks: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        layers: list[nn.Module] = []
        inputs = width
        for stage in range(stages):
            outputs = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))  # [N, width * 2 ** (stages - 1), H', W']
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        scores: Tensor = self.head(x)
        return scores


def digits_resnet(width: int = 32, *, blocks: int = 2, channels: int = 1, classes: int = 10) -> nn.Module:
    """The demo's residual network: three stages, 0.69 M parameters at the default width.

    [N, 1, 16..32, 16..32] -> [N, 10] class scores.
    """
    return ResNet(width=width, stages=3, blocks=blocks, channels=channels, classes=classes)


def tiny_resnet(width: int = 4, *, channels: int = 1, classes: int = 10) -> nn.Module:
    """A residual network of about three thousand parameters, with the same kinds of coupling, for tests."""
    return ResNet(width=width, stages=3, blocks=1, channels=channels, classes=classes)


class SignalNet(nn.Module):
    """1-D convolutions over a signal [N, channels, length] -> [N, classes]; for wearables and audio."""

    def __init__(self, *, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, width, 9, stride=2, padding=4, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(width, 2 * width, 5, padding=2, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(2 * width, 4 * width, 3, padding=1, bias=False),
            nn.BatchNorm1d(4 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean(dim=2))
        return scores


def signal_net(width: int = 8, *, channels: int = 1, classes: int = 4) -> nn.Module:
    """A small 1-D convolutional network: [N, channels, length >= 8] -> [N, classes]."""
    return SignalNet(width=width, channels=channels, classes=classes)


def lenet_300_100(inputs: int = 784, *, classes: int = 10) -> nn.Module:
    """LeCun et al. 1998: two hidden layers, 266,610 parameters at 784 inputs (28x28 pixels of one channel).

    [N, ...] with ``inputs`` values per example -> [N, classes].
    """
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes)
    )


def lenet5(*, channels: int = 1, side: int = 28, classes: int = 10) -> nn.Module:
    """LeNet-5 as the pruning literature has it (Caffe's, Han et al. 2015): 431,080 parameters at the defaults.

    [N, channels, side, side] -> [N, classes]; ``side`` is 16 or more.
    """
    left = ((side - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(50 * left * left, 500), nn.ReLU(), nn.Linear(500, classes),
    )  # fmt: skip
