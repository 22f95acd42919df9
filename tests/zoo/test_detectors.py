"""Detectors are cut exactly, by as much as was asked for, and their outputs keep their shapes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from zoo.detectors import DETECTORS

from neuroprune.graph.calls import tensors_in
from neuroprune.pruning import PruneResult, prune
from neuroprune.testing import assert_exact

#: the smallest share of the parameters that must go at a ratio
SHARE = {0.5: 0.40, 0.3: 0.20}
# nn.Transformer's own notice that tokens first is slower; it says nothing about the network
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")


@functools.cache
def cut(name: str, ratio: float) -> tuple[nn.Module, Any, PruneResult]:
    torch.manual_seed(0)
    make, side, _ = DETECTORS[name]
    model, image = make(), torch.randn(1, 3, side, side)
    return model, image, prune(model, image, ratio=ratio, criterion="random")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("ratio", SHARE)
@pytest.mark.parametrize("name", DETECTORS)
def test_it_is_cut_exactly(name: str, ratio: float) -> None:
    model, image, result = cut(name, ratio)
    assert_exact(model, result.model, result.plan, image)
    assert result.verification.exact
    assert not [r for r in result.refused if r.operator == "verify"]
    statistics = DETECTORS[name][2]
    if statistics is not None:
        assert result.verification.statistics == statistics


@pytest.mark.parametrize("ratio", SHARE)
@pytest.mark.parametrize("name", DETECTORS)
def test_enough_goes_and_the_outputs_keep_their_shapes(name: str, ratio: float) -> None:
    model, image, result = cut(name, ratio)
    assert 1 - parameters(result.model) / parameters(model) >= SHARE[ratio]
    with torch.no_grad():
        before, after = (tensors_in(net.eval()(image)) for net in (model, result.model))
    assert [y.shape for y in before] == [y.shape for y in after]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_cut_detector_trains_on_images_of_another_size(name: str) -> None:
    model, _, result = cut(name, 0.5)
    side = DETECTORS[name][1] + 32 if name != "detr" else 16  # DETR has positions for eight rows
    outputs = tensors_in(result.model.train()(torch.randn(2, 3, side, side)))
    sum(y.square().mean() for y in outputs if y.is_floating_point()).backward()
    trained = {n for n, p in result.model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_parts_a_peer_gets_wrong_are_in_these_detectors() -> None:
    """The growing concatenation of C2f: the halves of cv1 and every bottleneck go with each other."""
    model, _, result = cut("yolo_v8", 0.5)
    small = result.model.c2
    assert small.cv1.conv.out_channels == model.c2.cv1.conv.out_channels // 2
    assert small.cv2.conv.in_channels == 4 * small.m[0].cv2.conv.out_channels
    assert small.cv1.conv.out_channels == 2 * small.m[0].cv2.conv.out_channels
