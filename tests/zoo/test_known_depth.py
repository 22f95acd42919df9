"""Blocks of architectures nobody told us about (optional part: torchvision, timm, transformers)."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from zoo.loading import loaded

from neuroprune.pruning import prune_depth
from neuroprune.tasks.compat import prepare_torchvision
from neuroprune.testing import assert_exact

pytestmark = pytest.mark.extras

#: name -> blocks that can go one by one
ZOO = {
    "timm:resnet18": 5,
    "timm:vit_tiny_patch16_224": 12,
    "timm:convnext_atto": 12,
    "torchvision:mobilenet_v2": 10,
    "torchvision:swin_t": 12,
    "torchvision:densenet121": 0,  # its layers append channels; nothing passes through
}

SMALL = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
TRANSFORMERS = {
    "Llama": ({**SMALL, "intermediate_size": 24, "num_key_value_heads": 1, "pad_token_id": 0}, 3),
    "Qwen2": ({**SMALL, "intermediate_size": 24, "num_key_value_heads": 1, "pad_token_id": 0}, 3),
    "GPT2": ({"vocab_size": 31, "n_embd": 16, "n_layer": 3, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}, 3),
    "Bert": ({**SMALL, "intermediate_size": 24}, 0),  # normalised after the sum: zeros come out, not the input
}


def check(model: nn.Module, inputs: object, units: int) -> None:
    result = prune_depth(model, inputs, ratio=0.5, criterion="random")
    assert len(result.plan.decisions) == units
    assert len(result.plan.bypassed) == units // 2
    assert_exact(model, result.model, result.plan, inputs)
    assert bool(result.refused) == (units == 0)


@pytest.mark.parametrize("name", ZOO)
def test_blocks_of_a_known_vision_network(name: str) -> None:
    model, inputs = loaded(name, 224 if "vit" in name else 64)
    check(model, inputs, ZOO[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # transformers' own notices
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layers_of_a_known_language_model(name: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("the optional part zoo is not installed")
    prepare_torchvision()
    transformers = importlib.import_module("transformers")
    options, units = TRANSFORMERS[name]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options))
    inputs = {"input_ids": torch.randint(3, 31, (2, 5))} | ({} if name == "Bert" else {"use_cache": False})
    check(model, inputs, units)
    if name != "Bert":  # a layer that fills a cache is more than what it returns
        with_cache = prune_depth(model, {**inputs, "use_cache": True}, ratio=0.5)
        assert with_cache.plan.bypassed == {}
        assert any("it writes into its arguments" in refusal.reason for refusal in with_cache.refused)
