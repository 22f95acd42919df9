"""The file as a whole: one written by hand, and all that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from commands import fails
from commands import neuroprune as command
from npc.slow_decoder import rebuild
from safetensors.numpy import load_file, save_file

import neuroprune
from neuroprune.base.errors import UserError
from neuroprune.compression.npc import container, verbs
from neuroprune.compression.npc.wire import Damaged

PLAIN = b"<head>" + bytes([5, 9, 5, 5]) + b"--" + bytes([7, 0, 7, 0, 7, 0]) + b"<tail>"
HEADER = (
    "00"  # of a safetensors file, which nothing checks
    + hashlib.sha256(PLAIN).hexdigest()
    + "02"  # tensors
    + "01 77"  # one letter: w
    + "00 01 04"  # uint8, one dimension, 4
    + "06"  # after 6 bytes of the skeleton
    + "02 0A"  # levels, 10 bytes
    + zlib.crc32(bytes([5, 9, 5, 5])).to_bytes(4, "little").hex()
    + "02 C3BC"  # two bytes of UTF-8
    + "02 02 03 01"  # uint16, two dimensions, 3 and 1
    + "02"  # after 2 bytes of the skeleton
    + "01 02"  # constant, 2 bytes
    + zlib.crc32(bytes([7, 0] * 3)).to_bytes(4, "little").hex()
    + b"<head>--<tail>".hex()
)
#: Values 5 and 9, no classes, one word. Both symbols have weight 16, so each has half of 2^24, and decoding takes
#: bit 23 of the state and shifts what is below it: 0x01000000 gives 0, 0x00800000 gives 1, then 0 and 0.
LEVELS = "01 02 05 09 00 01 00000001"
CONSTANT = "0700"


def by_hand() -> bytes:
    header = bytes.fromhex(HEADER)
    stored = b"\x01" + (len(header) - 1).to_bytes(2, "big") + header + b"\x00"  # an uncompressed chunk of LZMA2
    sizes = [len(stored), len(header), zlib.crc32(header)]
    lead = bytes.fromhex("894E50430D0A1A0A 01") + b"".join(n.to_bytes(4, "little") for n in sizes)
    whole = lead + stored + bytes.fromhex(LEVELS) + bytes.fromhex(CONSTANT)
    return whole + zlib.crc32(whole).to_bytes(4, "little")


def test_a_file_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "hand.npc").write_bytes(by_hand())
    assert neuroprune.unpack(tmp_path / "hand.npc", tmp_path / "out") == len(PLAIN)
    assert (tmp_path / "out").read_bytes() == PLAIN == rebuild(by_hand())
    found = list(neuroprune.coded_tensors(tmp_path / "hand.npc"))
    assert [(name, array.tolist()) for name, array in found] == [("w", [5, 9, 5, 5]), ("ü", [[7], [7], [7]])]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    arrays = {"a": draw.integers(-9, 9, (30, 40)).astype(np.int8), "b": draw.normal(size=500).astype(np.float32)}
    neuroprune.pack(arrays, tmp_path / "m.npc")
    return tmp_path / "m.npc"


def test_named_arrays_become_a_safetensors_file(packed: Path) -> None:
    out = packed.with_name("weights.safetensors")
    neuroprune.unpack(packed, out)
    found = load_file(out)
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        "a": (np.int8, (30, 40)),
        "b": (np.float32, (500,)),
    }
    neuroprune.pack(out, packed.with_name("again.npc"))
    assert packed.with_name("again.npc").read_bytes() == packed.read_bytes()


def test_empty_and_tiny_files(tmp_path: Path) -> None:
    for arrays in ({}, {"x": np.zeros((0, 4), np.float32)}, {"x": np.float64(3)}, {"x": np.zeros(3, bool)}):
        report = neuroprune.pack(arrays, tmp_path / "t.npc")
        assert report.codecs == {}
        assert neuroprune.unpack(tmp_path / "t.npc", tmp_path / "t") == report.source_bytes
        assert list(neuroprune.coded_tensors(tmp_path / "t.npc")) == []
        back = load_file(tmp_path / "t")
        assert {name: array.shape for name, array in back.items()} == {n: np.shape(a) for n, a in arrays.items()}


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_HEADER_LIMIT", 100)
    with pytest.raises(UserError, match="outside its large tensors"):
        neuroprune.pack({"x": np.zeros(30, np.float32)}, tmp_path / "x.npc")
    assert not (tmp_path / "x.npc").exists()


def test_types_without_a_number_are_coded_as_bytes(tmp_path: Path) -> None:
    """8-bit floats, which numpy does not have: the file is written by hand."""
    values = np.random.default_rng(0).normal(0, 4, 4000).round().astype(np.int8).tobytes()
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [40, 100], "data_offsets": [0, 4000]}}).encode()
    source = tmp_path / "f8.safetensors"
    source.write_bytes(len(header).to_bytes(8, "little") + header + values)
    assert sum(neuroprune.pack(source, tmp_path / "f8.npc").codecs.values()) == 1
    ((name, array),) = neuroprune.coded_tensors(tmp_path / "f8.npc")
    assert (name, array.dtype, array.tobytes()) == ("w", np.uint8, values)
    neuroprune.unpack(tmp_path / "f8.npc", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()


def test_every_cut_and_every_flipped_byte_is_noticed(packed: Path) -> None:
    data = packed.read_bytes()
    other, out = packed.with_name("other.npc"), packed.with_name("out")
    for length in {*range(40), *range(40, len(data), 97), len(data) - 1}:
        other.write_bytes(data[:length])
        with pytest.raises(UserError, match="other"):
            neuroprune.unpack(other, out)
    for place in range(0, len(data), 61):
        other.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(UserError):
            neuroprune.unpack(other, out)
    assert not out.exists()


def test_a_newer_version_says_what_to_do(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[8] = 2
    packed.write_bytes(data)
    with pytest.raises(UserError, match="version 2") as caught:
        neuroprune.unpack(packed, packed.with_name("out"))
    assert caught.value.mend == "install a newer neuroprune"
    assert caught.value.where == str(packed)


def test_the_limit_comes_before_any_work(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="limit of 1,000 bytes") as caught:
        neuroprune.unpack(packed, packed.with_name("out"), limit=1000)
    assert "damaged" not in str(caught.value)
    assert "--limit" in str(caught.value.mend)
    with pytest.raises(UserError, match="limit of 1,000 bytes"):
        next(neuroprune.coded_tensors(packed, limit=1000))


def sealed(header: container.Header, body: bytes) -> bytes:
    whole = container.write_header(header) + body
    return whole + zlib.crc32(whole).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("entry", "payload", "says"),
    [
        ({"shape": (1 << 40,), "codec": 1}, b"\0", "limit"),
        ({"shape": (0, 1 << 40), "codec": 1}, b"\0", "limit"),
        ({"shape": (4,), "codec": 9}, b"\0", "codec 9 is unknown"),
        ({"shape": (4,), "codec": 0}, b"\0", "4 bytes are announced and 1 are left"),
        ({"shape": (4,), "codec": 1}, b"\0\0", "1 bytes are left over"),
        ({"shape": (4,), "codec": 1}, b"\1", "checksum of tensor 'x'"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("01 02 05 09 00 01 00000000"), "zero word"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("01 02 05 09 00 01 00000011"), "go on after the last"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("01 02 05 09 10 01 00000001"), "too many classes"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("01 01 05 00 01 00000001"), "fewer than two"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("15 02 05 09 00 01 00000001"), "unknown flags"),
        ({"shape": (4,), "codec": 2}, bytes.fromhex("01 81 20 05"), "at most 4,096"),
        ({"shape": (4,), "codec": 3, "dtype": 2}, bytes.fromhex("00 03"), "codec 3 is unknown"),
        ({"shape": (4,), "codec": 4}, bytes.fromhex("01 05 01 01 00"), "do not fill"),
        ({"shape": (4,), "codec": 4}, bytes.fromhex("01 08 01 01 77"), "over 15"),
        ({"shape": (300,), "codec": 5}, bytes.fromhex("00 02 01 01 FF 00 00"), "checksum"),
        ({"shape": (300,), "codec": 5}, bytes.fromhex("00 02 00 02 FF FE 01 01 07"), "beyond the end"),
        ({"shape": (4,), "codec": 1, "gap": 9}, b"\0", "beyond the end of the rebuilt file"),
        ({"shape": (4,), "codec": 1, "stored": 7}, b"\0", "its tensors take 7 bytes"),
    ],
)
def test_right_checksums_around_wrong_content(
    entry: dict[str, object], payload: bytes, says: str, tmp_path: Path
) -> None:
    fields = {"name": "x", "dtype": 0, "gap": 0, "crc": 0, "stored": len(payload), **entry}
    header = container.Header("onnx", bytes(32), (container.Entry(**fields),), b"skeleton")  # type: ignore[arg-type]
    (tmp_path / "x.npc").write_bytes(sealed(header, payload))
    with pytest.raises(UserError, match=r"x\.npc") as caught:
        neuroprune.unpack(tmp_path / "x.npc", tmp_path / "out")
    assert says in str(caught.value)
    assert ("is damaged" in str(caught.value)) == (says != "limit")
    assert not (tmp_path / "out").exists()


def test_another_content_than_was_packed(tmp_path: Path) -> None:
    header = container.Header("onnx", bytes(32), (), b"skeleton")
    (tmp_path / "x.npc").write_bytes(sealed(header, b""))
    with pytest.raises(UserError, match="not the one that was packed"):
        neuroprune.unpack(tmp_path / "x.npc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_header_that_would_expand_without_end(tmp_path: Path) -> None:
    """256 MiB of zeros in 38 KB: refused by the ratio, before they are written out."""
    data = bytearray(sealed(container.Header("onnx", bytes(32), (), bytes(1 << 20)), b""))
    data[13:17] = (1 << 27).to_bytes(4, "little")
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    (tmp_path / "x.npc").write_bytes(data)
    with pytest.raises(UserError, match="cannot come out of"):
        neuroprune.unpack(tmp_path / "x.npc", tmp_path / "out")


class PanicException(BaseException):
    """As pyo3's: not an Exception."""


@pytest.mark.parametrize(("raised", "says"), [(PanicException("capacity"), "gave up"), (MemoryError(), "memory")])
def test_what_the_native_coder_may_do(
    raised: BaseException, says: str, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives_up(*_: object) -> None:
        raise raised

    monkeypatch.setattr("neuroprune.compression.npc.adaptive.Decoder", gives_up)
    with pytest.raises(UserError, match=says):
        neuroprune.unpack(packed, packed.with_name("out"))


def test_overlapping_tensors_of_a_strange_source_stay_in_the_skeleton(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [400], "data_offsets": [0, 400]}
    negative = {"dtype": "U8", "shape": [-20, -20], "data_offsets": [0, 400]}
    header = json.dumps({"a": entry, "b": entry | {"data_offsets": [100, 500]}, "c": negative}).encode()
    source = tmp_path / "strange.safetensors"
    source.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(250)) * 2)
    neuroprune.pack(source, tmp_path / "s.npc")
    neuroprune.unpack(tmp_path / "s.npc", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()
    assert [name for name, _ in neuroprune.coded_tensors(tmp_path / "s.npc")] == ["a"]


def test_an_encoder_that_errs_is_caught_when_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, _ = verbs.best_codec(verbs.Plain(np.zeros(9, np.uint8), "unsigned", None, fast=True))
    monkeypatch.setattr(verbs, "best_codec", lambda plain: (codec, b"\1"))
    with pytest.raises(Damaged, match="does not match"):  # not the user's fault: a bug, and reported as one
        neuroprune.pack({"x": np.zeros(900, np.uint8)}, tmp_path / "x.npc")
    assert not (tmp_path / "x.npc").exists()


def test_commands(tmp_path: Path) -> None:
    clustered = np.random.default_rng(0).integers(0, 6, (20, 30)).astype(np.float32)
    save_file({"w": clustered}, tmp_path / "w.safetensors")
    done = command("pack", "w.safetensors", "--to", "w.npc", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "times smaller" in done.stdout
    assert "1 levels" in done.stdout
    done = command("unpack", "w.npc", "--to", "again.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_commands_refuse_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no network at all")
    (tmp_path / "half.safetensors").write_bytes(b'\x90\0\0\0\0\0\0\0{"x":')
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x99")
    fails("pack", "none.onnx", cwd=tmp_path, says=["cannot read none.onnx"])
    fails("pack", "text.txt", cwd=tmp_path, says=["neither an ONNX nor a safetensors file"])
    fails("pack", "half.safetensors", cwd=tmp_path, says=["no safetensors file"])
    fails("pack", "bad.onnx", cwd=tmp_path, says=["no ONNX file"])
    fails("unpack", "none.npc", "--to", "x", cwd=tmp_path, says=["cannot read none.npc"])
    fails("unpack", "text.txt", "--to", "x", cwd=tmp_path, says=["does not begin as an .npc file does"])
    fails("unpack", ".", "--to", "x", cwd=tmp_path, says=["cannot read"])
