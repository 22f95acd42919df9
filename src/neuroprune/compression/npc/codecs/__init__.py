"""One file per codec; importing this package files all of them in ``CODECS``."""

from neuroprune.compression.npc.codecs import constant, levels, nibbles, planes, raw, sparse

__all__ = ["constant", "levels", "nibbles", "planes", "raw", "sparse"]
