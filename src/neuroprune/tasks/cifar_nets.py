"""The two networks of system S4, for 32x32 colour images; their shapes are our choice."""

from __future__ import annotations

from torch import Tensor, nn

from neuroprune.tasks.nets import BasicBlock

#: Simonyan, Zisserman 2015, arXiv:1409.1556, table 1, column D; M halves the image
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
#: He et al. 2015, arXiv:1512.03385, table 1: channels and blocks of each stage
_RESNET34 = ((64, 3), (128, 4), (256, 6), (512, 3))


class ImageNetResNet(nn.Module):
    """A 7x7 stem of stride 2, max pooling, stages of basic blocks, linear head.

    [N, channels, H, W] -> [N, classes].

    A 32x32 image is 8x8 after stem and pooling and 1x1 at the end: little computing, and accuracy lost by it.
    """

    def __init__(self, stages: tuple[tuple[int, int], ...], *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        inputs = stages[0][0]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, inputs, 7, 2, 3, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        layers: list[nn.Module] = []
        for index, (width, blocks) in enumerate(stages):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if index and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(self.blocks(self.stem(x))))
        return scores


def resnet34(classes: int = 10, *, channels: int = 3) -> nn.Module:
    """ResNet-34 with the ImageNet stem, 21.3 M parameters: torchvision's, in tensors and order of computing.

    [N, 3, 32, 32] -> [N, 10] class scores.
    """
    return _initialised(ImageNetResNet(_RESNET34, channels=channels, classes=classes))


def vgg16(classes: int = 10, *, channels: int = 3, divide: int = 1) -> nn.Module:
    """13 convolutions with batch norm and one linear layer, 14.7 M parameters. [N, 3, 32, 32] -> [N, 10] scores.

    ``divide``: every width by this, for tests.
    """
    layers: list[nn.Module] = []
    for item in _VGG16:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            width = int(item) // divide
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return _initialised(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    )


def _initialised(model: nn.Module) -> nn.Module:
    """Kernels as in He et al. 2015, arXiv:1502.01852 (fan out): a deep net without shortcuts needs it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
