"""The networks of S4: torchvision's ResNet-34 to the last bit, and VGG-16 as the source's figures fit it."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from neuroprune.graph.cost import cost
from neuroprune.tasks.cifar_nets import resnet34, vgg16
from neuroprune.tasks.models import load_model


def test_resnet34_computes_what_torchvisions_does() -> None:
    if importlib.util.find_spec("torchvision") is None:  # importing it takes the shim that load_model brings
        pytest.skip("torchvision is not installed")
    ours, theirs = resnet34(), load_model("torchvision:resnet34", kwargs={"num_classes": 10})
    mine, other = ours.state_dict(), theirs.state_dict()
    assert [tuple(t.shape) for t in mine.values()] == [tuple(t.shape) for t in other.values()]
    ours.load_state_dict(dict(zip(mine, other.values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_vgg16_has_thirteen_convolutions_and_one_linear_layer() -> None:
    model = vgg16()
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == 13
    assert kinds.count(nn.Linear) == 1
    found = cost(model.eval(), (torch.randn(2, 3, 32, 32),))
    assert found.params == 14_724_042
    assert found.macs == 313_201_664
    assert vgg16(divide=16)(torch.randn(2, 3, 32, 32)).shape == (2, 10)
