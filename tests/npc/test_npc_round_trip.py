"""What goes in comes out, bit for bit; the product's decoder agrees with the slow one of docs/format.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from npc.slow_decoder import rebuild

import neuroprune
from neuroprune.compression.npc import adaptive, codecs
from neuroprune.compression.npc._base import CODECS, Codec, Plain, best_codec
from neuroprune.compression.npc.classes import Grouping, classes_along
from neuroprune.compression.npc.codecs.levels import Alphabet
from neuroprune.compression.npc.wire import Reader

assert codecs.__all__  # importing them files them in CODECS
KINDS: dict[str, Any] = {"i": "signed", "u": "unsigned", "f": "float", "b": "unsigned"}
DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "uint64", "int64", "float16", "float32", "float64", "bool"]


def plain(array: np.ndarray) -> Plain:
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)
    return Plain(bits, KINDS[array.dtype.kind], None, fast=True)


def decoded(codec: Codec, payload: bytes, like: Plain) -> np.ndarray:
    reader = Reader(payload)
    bits = codec.decode(reader, like.bits.shape, like.itemsize)
    reader.end()
    return bits


def assert_returns(array: np.ndarray) -> None:
    source = plain(array)
    for entry in CODECS.entries():
        payload = entry.value.encode(source)
        if payload is not None:
            found = decoded(entry.value, payload, source)
            assert found.dtype.itemsize == array.dtype.itemsize
            assert np.array_equal(found, source.bits), entry.name


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Any bit patterns in any shape; often few of them, as in weights."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    count = int(np.prod(shape))
    patterns = draw(st.integers(1, 300))
    source = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    raw = source.integers(0, 256, (patterns, dtype.itemsize), dtype=np.uint8)
    if dtype.kind == "b":
        raw &= 1
    return raw[source.integers(0, patterns, count)].reshape(-1).view(dtype)[:count].reshape(shape)


@given(tensors())
@example(np.array([0.0, -0.0, np.nan, -np.nan, np.inf, 5e-324]))
@example(np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32))  # NaN with payloads
@example(np.array(3, np.int8))
@example(np.zeros((0, 3), np.float32))
@example(np.arange(256, dtype=np.uint8).reshape(16, 16))
@example(np.full((3, 3), -0.0, np.float32))
@settings(max_examples=150, deadline=None)
def test_every_codec_gives_every_bit_back(array: np.ndarray) -> None:
    assert_returns(array)


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    found = draw.standard_t(4, shape)
    for axis, length in enumerate(shape):
        found *= np.exp(draw.normal(0, 0.7, length)).reshape(-1, *[1] * (len(shape) - axis - 1))
    return found / np.abs(found).max()


INT8 = np.rint(127 * np.cbrt(weights((24, 16, 3, 3)))).astype(np.int8)


@pytest.mark.parametrize(
    "array",
    [
        INT8,
        np.where(np.abs(INT8) > 60, INT8, 0).astype(np.int8),
        (INT8 // 16).astype(np.float32),
        (INT8.astype(np.int16) * 30),
        INT8.astype(np.uint8),
        np.repeat(INT8, 40),  # long blocks: 138,240 symbols
        np.repeat((INT8 // 32).astype(np.float64), 40),  # in pairs
        np.repeat(INT8, 10)[:34561].reshape(-1, 1),
    ],
    ids=["int8", "masked", "clustered", "int16", "uint8", "long", "pairs", "odd"],
)
def test_weights_come_back_and_the_slow_decoder_agrees(array: np.ndarray, tmp_path: Path) -> None:
    assert_returns(array)
    report = neuroprune.pack({"w": array}, tmp_path / "w.npc")
    assert report.codecs == {"levels": 1}
    size = neuroprune.unpack(tmp_path / "w.npc", tmp_path / "w.safetensors")
    packed = (tmp_path / "w.npc").read_bytes()
    rebuilt = (tmp_path / "w.safetensors").read_bytes()
    assert rebuild(packed) == rebuilt
    assert (report.source_bytes, report.target_bytes) == (size, len(packed)) == (len(rebuilt), len(packed))
    ((name, found),) = neuroprune.coded_tensors(tmp_path / "w.npc")
    assert (name, found.dtype, found.shape) == ("w", array.dtype, array.shape)
    assert np.array_equal(found, array)


def test_the_coded_size_is_near_the_entropy() -> None:
    """Independent symbols of a known distribution, one group: what theory asks for, and a little for learning."""
    shares = np.array([0.6, 0.2, 0.1, 0.05, 0.05])
    symbols = np.random.default_rng(0).choice(5, 50_000, p=shares).astype(np.uint8)
    entropy = -(shares * np.log2(shares)).sum() * len(symbols) / 8
    words = adaptive.encode([(5, [symbols])])
    assert entropy * 0.99 < 4 * len(words) < entropy * 1.02
    assert abs(adaptive.bits(5, [symbols]) - 32 * len(words)) < 64


def test_rows_of_different_scale_cost_less_than_their_mixture() -> None:
    draw = np.random.default_rng(0)
    array = np.rint(draw.normal(0, 1, (64, 2000)) * np.geomspace(0.3, 20, 64)[:, None]).astype(np.int8)
    payload = best_codec(plain(array))[1]
    counts = np.bincount(array.ravel().astype(int) + 128)
    shares = counts[counts > 0] / array.size
    assert len(payload) < 0.9 * -(shares * np.log2(shares)).sum() * array.size / 8


@pytest.mark.parametrize("levels", [2, 3, 24, 25, 100, 255, 256, 257, 4096])
@pytest.mark.parametrize("low", [0, 1, 2, 3, 4])
def test_levels_are_symbols_and_low_bits(levels: int, low: int) -> None:
    every = np.arange(levels, dtype=np.uint16)
    for centre in (None, 0, levels // 2, levels - 1):
        alphabet = Alphabet(levels, low, centre)
        symbols = alphabet.symbol(every)
        assert symbols.min() >= 0
        assert symbols.max() < alphabet.symbols
        narrow = symbols.astype(np.uint8 if alphabet.symbols <= 256 else np.uint16)
        assert np.array_equal(alphabet.level(narrow, alphabet.low_bits(every)), every)
        if centre is not None:
            assert (symbols == symbols[centre]).sum() == 1


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_groups_split_and_join(rows: int, columns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    row, column = draw.integers(0, 4, rows), draw.integers(0, 4, columns)
    matrix = np.arange(rows * columns).reshape(rows, columns)
    grouping = Grouping(row, column)
    groups = grouping.split(matrix)
    assert [len(group) for group in groups] == list(grouping.sizes())
    for number, group in enumerate(groups):
        assert all(row[i // columns] + column[i % columns] == number for i in group)
    assert np.array_equal(grouping.join(iter(groups)), matrix)


def test_classes_follow_the_mean_magnitude() -> None:
    """Means 1, 2, 4 and 4: the mean is 2.75, so log2 of the shares is -1.46, -0.46, 0.54, 0.54; largest first."""
    magnitudes = np.array([[1.0, 1], [2, 2], [4, 4], [5, 3]])
    assert classes_along(magnitudes, 0, 1).tolist() == [2, 1, 0, 0]
    assert classes_along(magnitudes, 1, 1).tolist() == [0, 0]
    assert classes_along(np.zeros((3, 2)), 0, 2).tolist() == [0, 0, 0]


def test_smallest_is_smaller_where_speed_would_cost_bytes(tmp_path: Path) -> None:
    """A bell of 255 levels: the cheapest alphabet has more symbols than the quickest within 1 %."""
    array = np.random.default_rng(0).normal(0, 20, (320, 500)).round().clip(-127, 127).astype(np.int8)
    fast = neuroprune.pack({"w": array}, tmp_path / "fast.npc")
    small = neuroprune.pack({"w": array}, tmp_path / "small.npc", smallest=True)
    assert 0.99 * fast.target_bytes <= small.target_bytes < fast.target_bytes
    ((_, found),) = neuroprune.coded_tensors(tmp_path / "small.npc")
    assert np.array_equal(found, array)


def test_each_kind_of_tensor_takes_its_codec() -> None:
    draw = np.random.default_rng(0)
    rare = np.zeros(20_000, np.float32)
    rare[::400] = draw.normal(size=50)
    chosen = {
        "raw": draw.integers(0, 256, 900).astype(np.uint8),
        "constant": np.full((9, 9), 1.5, np.float32),
        "levels": INT8,
        "planes": weights((20, 20)).astype(np.float32),
        "sparse": rare,
    }
    numbers = {entry.value.number: entry.name for entry in CODECS.entries()}
    for name, array in chosen.items():
        assert numbers[best_codec(plain(array))[0].number] == name
    packed = Plain(draw.integers(0, 256, 300).astype(np.uint8) & 0x33, "unsigned", hint=(20, 10, 3), fast=True)
    assert numbers[best_codec(packed)[0].number] == "nibbles"


def test_numbers_of_codecs_are_those_of_the_format() -> None:
    found = {entry.name: (entry.value.number, entry.value.simple) for entry in CODECS.entries()}
    assert found == {
        "raw": (0, True),
        "constant": (1, True),
        "levels": (2, True),
        "planes": (3, False),
        "nibbles": (4, False),
        "sparse": (5, False),
    }
