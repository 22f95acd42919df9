"""Heads found without hints are the ones that timm's own classes name."""

from __future__ import annotations

import pytest
import torch

from neuroprune import transfer
from neuroprune.base.errors import UserError
from neuroprune.tasks.compat import prepare_torchvision

prepare_torchvision()
timm = pytest.importorskip("timm")

X = torch.randn(2, 3, 224, 224)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto"])
def test_a_new_head_where_timm_has_its_classifier(name: str) -> None:
    model = timm.create_model(name)
    moved = transfer(model, X, 7)
    named = [path for path, module in model.named_modules() if module is model.get_classifier()]
    assert [moved.head.module] == named
    assert moved.model.eval()(X).shape == (2, 7)


def test_two_heads_are_named() -> None:
    with pytest.raises(UserError) as caught:
        transfer(timm.create_model("deit_tiny_distilled_patch16_224"), X, 7)
    assert "head.weight, dimension 0 (1000)" in str(caught.value)
    assert "head_dist.weight, dimension 0 (1000)" in str(caught.value)
