"""Models of the zoos, or the reason why there are none."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from torch import Tensor, nn

from neuroprune.tasks.models import load_model


def loaded(name: str, side: int | None = None) -> tuple[nn.Module, Tensor]:
    """``timm:NAME`` or ``torchvision:NAME``, weights random; an image of ``side`` pixels, or of its own size."""
    if importlib.util.find_spec(name.partition(":")[0]) is None:  # importing torchvision here would skip our shim
        pytest.skip("the optional part zoo is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoos' own deprecation notices
        model: nn.Module = load_model(name)
    if side is not None:
        return model, torch.randn(1, 3, side, side)
    return model, torch.randn(1, *model.default_cfg["input_size"])
