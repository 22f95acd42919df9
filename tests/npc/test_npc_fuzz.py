"""A few hundred of the damaged files that benchmarks/fuzz_npc.py makes by the thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fuzz_npc

from neuroprune.compression.npc._base import CODECS
from neuroprune.compression.npc.verbs import pack


def test_every_damaged_file_is_refused_or_the_same(tmp_path: Path) -> None:
    found = fuzz_npc.fuzz(240, seed=1, folder=tmp_path)
    assert found["failures"] == []
    assert sum(found["outcomes"].values()) == 240
    assert {key.split(": ")[0] for key in found["outcomes"]} == set(fuzz_npc.KINDS)


def test_the_good_files_take_every_codec_and_come_back(tmp_path: Path) -> None:
    taken = set(pack(fuzz_npc.arrays(), tmp_path / "a").codecs)
    taken |= set(pack(fuzz_npc.onnx_file(tmp_path / "o.onnx"), tmp_path / "b").codecs)
    assert taken == set(CODECS.names())
    for packed, plain in fuzz_npc.good_files(tmp_path):
        assert fuzz_npc.outcome(packed, plain, tmp_path) == ("same", "")


def test_an_unsealed_change_is_seen_by_a_checksum_and_a_sealed_one_further_in(tmp_path: Path) -> None:
    packed, plain = fuzz_npc.good_files(tmp_path)[0]
    draw = np.random.default_rng(0)
    for kind, says in (("payload", "checksum of tensor"), ("bytes", "checksum of the file")):
        fate, said = fuzz_npc.outcome(fuzz_npc.mutated(packed, kind, draw), plain, tmp_path)
        assert (fate, says in said) == ("refused", True), said
