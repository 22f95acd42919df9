"""Precision, memory layout and device of a training: what they change, and what they leave alone."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.computing import Computing, in_each
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.nets import tiny_resnet


def _fitted(folder: Path | None = None, until: int | None = None, **options: Any) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = tiny_resnet(4)
    task = load_task("digits", batch_size=64, limit=400)
    config = FitConfig(2, lr=0.1, **options)
    return model, fit(model, task, config, checkpoint=folder, until=until)


def test_channels_last_gives_the_same_losses_and_hands_back_plain_tensors() -> None:
    model, records = _fitted(channels_last=True)
    _, plain = _fitted()
    assert [r.train_loss for r in records] == pytest.approx([r.train_loss for r in plain], rel=1e-3)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("asked", [True, False])
def test_channels_last_reaches_the_kernels(asked: bool) -> None:
    """Of a layer with several channels: with one, both layouts are the same."""
    seen: set[tuple[bool, bool]] = set()
    model = tiny_resnet(4)
    conv = model.get_submodule("blocks.0.conv1")
    assert isinstance(conv, nn.Conv2d)

    def look(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        tensors = [conv.weight] if not layer.training else [conv.weight, args[0]]
        seen.update((t.is_contiguous(), t.is_contiguous(memory_format=torch.channels_last)) for t in tensors)

    conv.register_forward_pre_hook(look)
    fit(model, load_task("digits", limit=100), FitConfig(1, channels_last=asked))
    assert seen == {(not asked, asked)}


def test_bfloat16_computes_the_products_and_nothing_else() -> None:
    seen: set[tuple[str, torch.dtype]] = set()
    torch.manual_seed(0)
    model = tiny_resnet(4)
    model.get_submodule("blocks.0.conv1").register_forward_hook(lambda m, a, out: seen.add(("conv", out.dtype)))
    model.register_forward_hook(lambda m, a, out: seen.add(("scores", out.dtype)))
    records = fit(model, load_task("digits", limit=400), FitConfig(4, lr=0.1, precision="bf16"))
    assert seen == {("conv", torch.bfloat16), ("scores", torch.bfloat16)}
    assert {tensor.dtype for tensor in named_tensors(model).values()} == {torch.float32, torch.int64}
    assert records[-1].train_loss < 0.7 * records[0].train_loss


def test_an_interrupted_training_in_bfloat16_and_channels_last_ends_in_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": "bf16", "channels_last": True}
    whole, records = _fitted(**options)
    _fitted(tmp_path, until=1, **options)
    resumed, again = _fitted(tmp_path, **options)
    for name, tensor in named_tensors(whole).items():
        assert torch.equal(tensor, named_tensors(resumed)[name]), name
    assert [r.val_loss for r in again] == [r.val_loss for r in records]


def test_a_checkpoint_of_another_precision_is_another_training(tmp_path: Path) -> None:
    _fitted(tmp_path, until=1)
    with pytest.raises(UserError, match="another training run"):
        _fitted(tmp_path, precision="bf16")


def test_a_gpu_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="no GPU"):
        Computing.chosen("cuda", "fp32", False)
    assert Computing.chosen("auto", "fp32", False).device.type == "cpu"


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"compute": "tpu"}])
def test_unknown_words_are_answered_with_the_known(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="valid names"):
        FitConfig(1, **options)


def test_structures_of_outputs_keep_their_kind() -> None:
    Pair = namedtuple("Pair", "a b")
    one = torch.ones(1)
    value = {"x": [one, (one, "text")], "pair": Pair(one, 3)}
    doubled = in_each(value, lambda tensor: tensor * 2)
    assert doubled["x"][0].item() == 2
    assert doubled["x"][1] == (torch.full((1,), 2.0), "text")
    assert isinstance(doubled["pair"], Pair)
    assert (doubled["pair"].a.item(), doubled["pair"].b) == (2, 3)
    nothing: Tensor | None = in_each(None, lambda tensor: tensor)
    assert nothing is None
