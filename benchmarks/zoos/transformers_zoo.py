"""transformers: one tiny configuration of each architecture, with its usual head and random weights.

Caches are off: a key that the model returns is an output, and outputs keep their size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.tasks.compat import prepare_torchvision
from zoos.lazy import unwritten

PACKAGE = "transformers"
SETS = ("all",)
VOCABULARY, TOKENS, LABELS = 97, 11, 5


def names(chosen: str) -> list[str]:
    return list(_MAKERS)


def sets_of(name: str) -> list[tuple[str, int | None]]:
    return [("tiny transformers", len(_MAKERS))]


def build(name: str, lazy: bool = False) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    with unwritten(lazy):
        model, inputs = _MAKERS[name](_transformers())
    return model.eval(), inputs


def classes(name: str) -> int | None:
    return {"gpt2": VOCABULARY, "llama": VOCABULARY, "t5": VOCABULARY, "whisper": VOCABULARY, "mamba": VOCABULARY,
            "clip": None}.get(name, LABELS)  # fmt: skip


def _transformers() -> Any:
    prepare_torchvision()
    import transformers

    return transformers


def _ids(high: int = VOCABULARY) -> Tensor:
    return torch.randint(3, high, (1, TOKENS))


def _bert(t: Any) -> tuple[nn.Module, Any]:
    config = t.BertConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72,
        max_position_embeddings=32, num_labels=LABELS,
    )  # fmt: skip
    return t.BertForSequenceClassification(config), {"input_ids": _ids()}


def _distilbert(t: Any) -> tuple[nn.Module, Any]:
    config = t.DistilBertConfig(
        vocab_size=VOCABULARY, dim=48, n_layers=2, n_heads=4, hidden_dim=72, max_position_embeddings=32,
        num_labels=LABELS,
    )  # fmt: skip
    return t.DistilBertForSequenceClassification(config), {"input_ids": _ids()}


def _gpt2(t: Any) -> tuple[nn.Module, Any]:
    config = t.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=48, n_layer=2, n_head=4, use_cache=False, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return t.GPT2LMHeadModel(config), {"input_ids": _ids()}


def _llama(t: Any) -> tuple[nn.Module, Any]:
    """Grouped queries: eight query heads share two key and value heads."""
    config = t.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    return t.LlamaForCausalLM(config), {"input_ids": _ids()}


def _t5(t: Any) -> tuple[nn.Module, Any]:
    config = t.T5Config(
        vocab_size=VOCABULARY, d_model=48, d_kv=12, d_ff=72, num_layers=2, num_heads=4, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    return t.T5ForConditionalGeneration(config), {"input_ids": _ids(), "decoder_input_ids": _ids()[:, :7]}


def _vit(t: Any) -> tuple[nn.Module, Any]:
    config = t.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72, image_size=32,
        patch_size=8, num_labels=LABELS,
    )  # fmt: skip
    return t.ViTForImageClassification(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


def _swin(t: Any) -> tuple[nn.Module, Any]:
    config = t.SwinConfig(
        image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4,
        num_labels=LABELS,
    )  # fmt: skip
    return t.SwinForImageClassification(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


def _clip(t: Any) -> tuple[nn.Module, Any]:
    text = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 32, "eos_token_id": 2,
            "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip
    vision = {"hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return t.CLIPModel(config), {"input_ids": _ids(), "pixel_values": torch.randn(1, 3, 32, 32)}


def _whisper(t: Any) -> tuple[nn.Module, Any]:
    config = t.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=20, d_model=48, encoder_layers=2, encoder_attention_heads=4,
        decoder_layers=2, decoder_attention_heads=4, encoder_ffn_dim=72, decoder_ffn_dim=72,
        max_source_positions=24, max_target_positions=16, use_cache=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(1, 20, 48), "decoder_input_ids": _ids()[:, :7]}
    return t.WhisperForConditionalGeneration(config), inputs


def _mamba(t: Any) -> tuple[nn.Module, Any]:
    config = t.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=48, state_size=8, num_hidden_layers=2, conv_kernel=4, expand=2,
        time_step_rank=6, use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return t.MambaForCausalLM(config), {"input_ids": _ids()}


_MAKERS: dict[str, Callable[[Any], tuple[nn.Module, Any]]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
    "vit": _vit,
    "swin": _swin,
    "clip": _clip,
    "whisper": _whisper,
    "distilbert": _distilbert,
    "mamba": _mamba,
}
