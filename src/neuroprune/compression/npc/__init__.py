"""The coded artifact ``model.npc``: one file that gives back the very same ONNX or safetensors file."""

from neuroprune.compression.npc._base import CODECS
from neuroprune.compression.npc.verbs import LIMIT, PackReport, coded_tensors, pack, unpack

__all__ = ["CODECS", "LIMIT", "PackReport", "coded_tensors", "pack", "unpack"]
