"""Architectures nobody told the engine about: every cut exact, no hints (optional part: torchvision, timm)."""

from __future__ import annotations

import pytest
from zoo.loading import loaded

from neuroprune.pruning import prune

#: name -> the largest share of the parameters that may be left at a ratio of one half
ZOO = {
    "torchvision:resnet18": 0.30,
    "torchvision:mobilenet_v2": 0.40,
    "torchvision:mobilenet_v3_small": 0.40,
    "torchvision:densenet121": 0.30,
    "torchvision:squeezenet1_0": 0.40,
    "torchvision:efficientnet_b0": 0.35,
    "torchvision:mnasnet0_5": 0.45,
    "torchvision:regnet_y_400mf": 0.30,
    "torchvision:shufflenet_v2_x0_5": 0.55,  # its widest layer comes last, and the split halves stay equal
    "torchvision:convnext_tiny": 0.30,
    "timm:resnet10t": 0.30,
    "timm:vit_tiny_patch16_224": 0.30,
    "timm:mobilenetv4_conv_small": 0.40,
}


@pytest.mark.extras
@pytest.mark.parametrize("name", ZOO)
def test_a_known_architecture_is_cut_exactly_without_hints(name: str) -> None:
    model, inputs = loaded(name, 224 if "vit" in name else 64)
    result = prune(model, inputs, ratio=0.5, criterion="random")
    assert result.verification.exact
    assert type(result.model) is type(model)
    before, after = (sum(p.numel() for p in net.parameters()) for net in (model, result.model))
    assert after <= ZOO[name] * before
