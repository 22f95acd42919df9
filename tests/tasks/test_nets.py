"""The shipped networks: sizes as promised, shapes as documented."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroprune.tasks.nets import digits_resnet, lenet5, lenet_300_100, signal_net, tiny_resnet


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _by_hand(width: int, blocks: int) -> int:
    """Parameters of a three-stage ResNet, counted from the paper's description."""
    total = 9 * width + 2 * width  # stem and its norm
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for _ in range(blocks):
            total += 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
            if inputs != outputs:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + 10 * inputs + 10


@pytest.mark.parametrize("side", [16, 24, 32])
def test_digits_resnet(side: int) -> None:
    model = digits_resnet()
    assert 500_000 <= _size(model) <= 1_000_000
    assert _size(model) == _by_hand(32, 2)
    assert model(torch.randn(2, 1, side, side)).shape == (2, 10)


def test_tiny_resnet() -> None:
    assert _size(tiny_resnet()) == _by_hand(4, 1) < 8_000
    assert tiny_resnet(channels=3, classes=4)(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_signal_net() -> None:
    assert _size(signal_net()) < 8_000
    for length in (8, 63, 128):
        assert signal_net(channels=2)(torch.randn(3, 2, length)).shape == (3, 4)


def test_lenet_300_100() -> None:
    assert _size(lenet_300_100()) == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert lenet_300_100()(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert lenet_300_100(64, classes=3)(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_lenet5() -> None:
    assert _size(lenet5()) == 520 + 25_050 + 400_500 + 5_010 == 431_080
    for side in (16, 17, 28, 32):
        assert lenet5(channels=3, side=side, classes=4)(torch.randn(2, 3, side, side)).shape == (2, 4)
