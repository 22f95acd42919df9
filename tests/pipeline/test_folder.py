"""Nothing half written, nothing overwritten, nothing resumed that is not the same run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroprune.base.errors import UserError
from neuroprune.base.files import write_json
from neuroprune.pipeline.folder import RunFolder

IDENTITY: dict[str, Any] = {"recipe": {"seed": 0, "steps": [{"train": {"epochs": 3}}]}, "model": "abc"}


Open = Callable[..., RunFolder]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens run folders, and closes them when the test is over."""
    folders: list[RunFolder] = []

    def open_one(root: Path, identity: dict[str, Any] = IDENTITY, *, resume: bool = False) -> RunFolder:
        folders.append(RunFolder(root))
        folders[-1].open(identity, "name: x\n", resume=resume)
        return folders[-1]

    yield open_one
    for folder in folders:
        folder.close()


def test_a_new_folder_is_made_and_holds_the_recipe(tmp_path: Path, opened: Open) -> None:
    folder = opened(tmp_path / "a" / "b")
    assert (folder.root / "recipe.yaml").read_text() == "name: x\n"
    assert folder.finished() == []


def test_another_run_is_refused_and_the_same_run_is_resumed(tmp_path: Path, opened: Open) -> None:
    opened(tmp_path).close()
    with pytest.raises(UserError, match="holds another run") as caught:
        opened(tmp_path)
    assert "--resume" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    opened(tmp_path, resume=True)


def test_resume_names_the_key_that_changed(tmp_path: Path, opened: Open) -> None:
    opened(tmp_path).close()
    changed = {**IDENTITY, "recipe": {"seed": 0, "steps": [{"train": {"epochs": 4}}]}}
    with pytest.raises(UserError, match=r"recipe\.steps\.1\.train\.epochs") as caught:
        opened(tmp_path, changed, resume=True)
    assert "3 before, 4 now" in str(caught.value)


def test_a_folder_with_other_things_is_refused(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(UserError, match="not empty") as caught:
            opened(tmp_path, resume=resume)
        assert "thesis.tex" in str(caught.value)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_recipe_of_ours_may_lie_there_another_may_not(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "recipe.yaml").write_text("name: y\n")
    with pytest.raises(UserError, match="not empty"):
        opened(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    opened(tmp_path)


def test_a_file_in_the_way_is_an_unwritable_folder(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write") as caught:
        opened(tmp_path / "file" / "out")
    assert "--out" in str(caught.value)
    assert "file is a file, not a folder" in str(caught.value)
    with pytest.raises(UserError, match="file is a file, not a folder"):  # the system says: File exists
        opened(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_unwritable_folder(tmp_path: Path, opened: Open) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        opened(tmp_path)


def test_two_processes_cannot_share_a_folder(tmp_path: Path, opened: Open) -> None:
    folder = opened(tmp_path)
    with pytest.raises(UserError, match="another process"):
        opened(tmp_path, resume=True)
    folder.close()
    opened(tmp_path, resume=True)


def test_a_step_is_whole_or_absent(tmp_path: Path, opened: Open) -> None:
    folder = opened(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.writing("01-train") as temporary:
        (temporary / "record.json").write_text(str(1 / 0))
    assert folder.finished() == []
    with folder.writing("01-train") as temporary:
        write_json(temporary / "record.json", {"a": 1})
        folder.work("01-train").mkdir()
    assert folder.finished() == ["01-train"]
    assert folder.record("01-train") == {"a": 1}
    assert not folder.work("01-train").exists()


def test_what_a_kill_leaves_is_cleaned_but_checkpoints_stay(tmp_path: Path, opened: Open) -> None:
    folder = opened(tmp_path)
    for name in ("01-train", "03-cut", "02-score.tmp-ab12", "02-score.work", "01-train.work"):
        (folder.steps / name).mkdir()
    folder.clean()
    assert sorted(p.name for p in folder.steps.iterdir()) == ["01-train", "02-score.work"]


def test_a_newer_schema_is_not_resumed(tmp_path: Path, opened: Open) -> None:
    folder = opened(tmp_path)
    folder.close()
    write_json(folder.state, {"schema": 99})
    with pytest.raises(UserError, match="schema 99"):
        opened(tmp_path, resume=True)
