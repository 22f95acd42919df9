"""Files: whole or absent, and a message that says what stands in the way and how to mend it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from neuroprune.base.errors import UserError
from neuroprune.base.files import atomic_folder, atomic_path, load_tensors, read_json, save_tensors, write_text


def refused(error: UserError, *parts: str) -> None:
    assert None not in (error.where, error.value, error.mend), str(error)
    for part in parts:
        assert part in str(error)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("mine")
    for path in (tmp_path / "FILE" / "x.json", tmp_path / "FILE" / "deep" / "x.json"):
        with pytest.raises(UserError) as caught:
            write_text(path, "text")
        refused(caught.value, "FILE is a file, not a folder", "--out", "--to")
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "FOLDER").mkdir()
    with pytest.raises(UserError) as caught:
        save_tensors(tmp_path / "FOLDER", {"x": torch.zeros(1)})
    refused(caught.value, "FOLDER is a folder, not a file", "name a file in it")
    assert [path.name for path in tmp_path.iterdir()] == ["FOLDER"]


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "who may write")])
def test_the_mend_fits_what_went_wrong(tmp_path: Path, number: int, says: str) -> None:
    def spoilt() -> None:
        with atomic_path(tmp_path / "x"):
            raise OSError(number, "the reason")

    with pytest.raises(UserError) as caught:
        spoilt()
    refused(caught.value, "cannot write x: the reason", says, "--to of restore")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"a": ')
    (tmp_path / "bad.safetensors").write_bytes(b"abc")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xfa")
    for name, says in (
        ("bad.json", "not valid JSON"),
        ("bytes.json", "not valid JSON"),
        ("bda.json", "'bad.json'?"),
    ):
        with pytest.raises(UserError) as caught:
            read_json(tmp_path / name)
        refused(caught.value, says)
    for name, says in (("bad.safetensors", "3 bytes"), ("bda.safetensors", "did you mean"), ("", "is a folder")):
        with pytest.raises(UserError) as caught:
            load_tensors(tmp_path / name)
        refused(caught.value, says)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as place:
        write_text(place / "inner" / "a.txt", "a")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "inner" / "a.txt").read_text() == "a"
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as place:
        write_text(place / "a.txt", "a")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine"), OSError(errno.ENOSPC, "no room")])
def test_a_folder_that_breaks_off_leaves_nothing_and_its_own_error(tmp_path: Path, error: BaseException) -> None:
    def spoilt() -> None:
        with atomic_folder(tmp_path / "out") as place:
            write_text(place / "a.txt", "a")
            raise error

    with pytest.raises(type(error)) as caught:
        spoilt()
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for name, says in (("FILE", "FILE is a file"), ("FILE/deep", "FILE is a file"), ("full", "full is not empty")):
        with pytest.raises(UserError) as caught, atomic_folder(tmp_path / name):
            pass
        refused(caught.value, says, "--out")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
