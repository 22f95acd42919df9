"""Architectures nobody told the engine about: every cut exact, no hints (optional part: torchvision, timm)."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from torch import nn

from neuroprune.pruning import prune
from neuroprune.tasks.models import load_model

#: name -> the largest share of the parameters that may be left at a ratio of one half
ZOO = {
    "torchvision:resnet18": 0.30,
    "torchvision:mobilenet_v2": 0.40,
    "torchvision:mobilenet_v3_small": 0.40,
    "torchvision:densenet121": 0.35,
    "torchvision:squeezenet1_0": 0.40,
    "torchvision:efficientnet_b0": 0.40,
    "torchvision:mnasnet0_5": 0.50,
    "torchvision:regnet_y_400mf": 0.40,
    "torchvision:shufflenet_v2_x0_5": 0.60,  # the split halves must stay equal: left whole
    "torchvision:convnext_tiny": 0.60,  # layer norm over the residual stream: only the inner widths go
    "timm:resnet10t": 0.30,
    "timm:vit_tiny_patch16_224": 0.75,  # the same, and attention stays whole
    "timm:mobilenetv4_conv_small": 0.45,
}


@pytest.mark.extras
@pytest.mark.parametrize("name", ZOO)
def test_a_known_architecture_is_cut_exactly_without_hints(name: str) -> None:
    if importlib.util.find_spec(name.partition(":")[0]) is None:  # importing torchvision here would skip our shim
        pytest.skip("the optional part zoo is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoos' own deprecation notices
        model: nn.Module = load_model(name)
    side = 224 if "vit" in name else 64
    result = prune(model, torch.randn(1, 3, side, side), ratio=0.5, criterion="random")
    assert result.verification.exact
    assert type(result.model) is type(model)
    before, after = (sum(p.numel() for p in net.parameters()) for net in (model, result.model))
    assert after <= ZOO[name] * before
