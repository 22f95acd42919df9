"""What benchmarks/size.py compares model.npc with, on numbers whose code can be written down; the guide runs."""

# ruff: noqa: E402  (the benchmarks are scripts in a folder, which has to be named before they can be imported)

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from measuring import coders, size_subjects


def test_huffman_code_lengths_by_hand() -> None:
    """Counts 1, 1, 2, 4: the two rarest share a parent, and so on up: 3, 3, 2 and 1 bits."""
    assert coders.code_lengths([1, 1, 2, 4]) == [3, 3, 2, 1]
    assert coders.code_lengths([9]) == [1]
    assert coders.code_lengths([1, 1, 1, 1]) == [2, 2, 2, 2]


def test_bytes_of_a_huffman_coded_tensor_by_hand() -> None:
    """Values -1, 0, 0, 2: codes of 2, 1 and 2 bits make 6 bits, four lengths 20: 4 bytes; and 4 for the range."""
    assert coders.huffman_bytes({"w": np.array([-1, 0, 0, 2], np.int8)}) == 4 + 4
    assert coders.entropy_bytes({"w": np.array([-1, 0, 0, 2], np.int8)}) == pytest.approx(6 / 8)
    assert coders.entropy_bytes({"w": np.array([7, 7, 7], np.int8)}) == 0


def test_general_coders_take_all_tensors_together() -> None:
    twice = {"a": np.arange(100, dtype=np.int8), "b": np.arange(100, dtype=np.int8)}
    assert coders.gzip_bytes(twice) < 1.2 * coders.gzip_bytes({"a": twice["a"]})


def test_clustered_weights_keep_their_zeros_and_have_so_many_values() -> None:
    draw = np.random.default_rng(0)
    weights = np.where(draw.random((40, 30)) < 0.5, 0, draw.normal(size=(40, 30))).astype(np.float32)
    levels, values = size_subjects.clustered(weights, 16)
    assert np.array_equal(values == 0, weights == 0)
    assert np.array_equal(levels == 0, weights == 0)
    assert len(np.unique(values)) == len(np.unique(levels)) == 16
    assert np.array_equal(np.argsort(np.unique(levels)), np.arange(16))
    assert np.abs(values - weights).mean() < 0.1


def test_int8_weights_use_the_whole_range_of_each_row() -> None:
    found = size_subjects.int8(np.array([[1.0, -2.0], [0.0, 0.0], [0.5, 0.25]], np.float32))
    assert found.tolist() == [[64, -127], [0, 0], [127, 64]]


def test_the_guides_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "size.md").read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert (tmp_path / "weights.safetensors").stat().st_size > 64 * 32 * 9
