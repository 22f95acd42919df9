"""Tiny configurations of transformers' architectures, with random weights and one example call each.

transformers is an optional part: nothing here is imported before a network is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.tasks.compat import prepare_torchvision

VOCABULARY = 60


@dataclass(frozen=True)
class Tiny:
    """``model`` and ``config`` are classes of transformers; ``options`` go to the config.

    ``share``: the smallest share of the parameters that must go at a ratio of one half.
    """

    model: str
    config: str
    options: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    share: float = 0.5

    def make(self) -> nn.Module:
        prepare_torchvision()  # transformers looks for torchvision, whose import fails without it
        library = importlib.import_module("transformers")
        torch.manual_seed(0)
        model: nn.Module = getattr(library, self.model)(getattr(library, self.config)(**self.options))
        return model.eval()


def ids(batch: int = 2, length: int = 7) -> Tensor:
    """Token ids without the special first four."""
    return torch.randint(4, VOCABULARY, (batch, length))


def text() -> dict[str, Any]:
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": ids(), "attention_mask": mask}


def decoder() -> dict[str, Any]:
    return {"input_ids": ids(), "use_cache": False}


def image(side: int) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, side, side)}


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = SIZES | {"vocab_size": VOCABULARY, "max_position_embeddings": 16}
LLAMA = TEXT | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 16, "vocab_size": VOCABULARY,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
    "relative_attention_num_buckets": 8, "decoder_start_token_id": 0,
}  # fmt: skip
VIT = SIZES | {"image_size": 16, "patch_size": 4}
SWIN = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
    "num_labels": 5,
}  # fmt: skip
CLIP = {
    "text_config": TEXT | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "vision_config": SIZES | {"image_size": 16, "patch_size": 4},
    "projection_dim": 24,
}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8,
    "max_source_positions": 10, "max_target_positions": 16, "vocab_size": VOCABULARY, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3,
}  # fmt: skip
DISTIL = {
    "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY,
    "max_position_embeddings": 16, "num_labels": 3,
}  # fmt: skip
MAMBA = {
    "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "conv_kernel": 3, "expand": 2, "time_step_rank": 4,
    "vocab_size": VOCABULARY, "use_cache": False,
}  # fmt: skip


def encoder_decoder() -> dict[str, Any]:
    return {"input_ids": ids(), "decoder_input_ids": ids(length=5), "use_cache": False}


def image_and_text() -> dict[str, Any]:
    return image(16) | text()


def sound() -> dict[str, Any]:
    """Log-mel frames [batch, mels, 2 * max_source_positions] and the text so far."""
    return {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": ids(length=5), "use_cache": False}


EAGER = {"attn_implementation": "eager"}
#: of networks that return a hidden state: its width, and all that adds to it, stays
PINNED = 0.3

TRANSFORMERS = {
    "bert": Tiny("BertForSequenceClassification", "BertConfig", TEXT | {"num_labels": 3}, text),
    "bert_eager": Tiny("BertForMaskedLM", "BertConfig", TEXT | EAGER, text),
    "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", GPT2, decoder),
    "llama_gqa": Tiny("LlamaForCausalLM", "LlamaConfig", LLAMA, decoder),
    "llama_gqa_eager": Tiny("LlamaForCausalLM", "LlamaConfig", LLAMA | EAGER, decoder),
    "t5": Tiny("T5ForConditionalGeneration", "T5Config", T5, encoder_decoder, PINNED),
    "vit": Tiny("ViTForImageClassification", "ViTConfig", VIT | {"num_labels": 5}, lambda: image(16)),
    "swin": Tiny("SwinForImageClassification", "SwinConfig", SWIN, lambda: image(32)),
    "clip": Tiny("CLIPModel", "CLIPConfig", CLIP, image_and_text, PINNED),
    "whisper": Tiny("WhisperForConditionalGeneration", "WhisperConfig", WHISPER, sound, PINNED),
    "distilbert": Tiny("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL, text),
    "mamba": Tiny("MambaForCausalLM", "MambaConfig", MAMBA, decoder),
}
