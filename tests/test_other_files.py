"""A model folder's further files, restored from their archive."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tinycats.models.folders import folder_identity, verify_folder, write_manifest
from tinycats.models.other_files import ARCHIVE, pack
from tinycats.program import UserError

DECLARED = ("model.safetensors", "config.json", "manifest.json", ARCHIVE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "vocab.txt", "1_Pooling/config.json"):
        (folder / name).write_text(f"this is {name}")
    write_manifest(folder, {"source": "this test"})
    return folder


def declared_only(folder: Path, to: Path) -> Path:
    """What reaches a job from a storage."""
    to.mkdir(exist_ok=True)
    for name in DECLARED:
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_a_folder_of_declared_files_is_the_whole_model(folder: Path, tmp_path: Path) -> None:
    copy = declared_only(folder, tmp_path / "copy")
    assert folder_identity(copy) == folder_identity(folder)
    verify_folder(copy)
    assert (copy / "1_Pooling/config.json").read_text() == "this is 1_Pooling/config.json"


def test_what_an_earlier_model_left_is_replaced_and_a_later_change_named(
    folder: Path, tmp_path: Path
) -> None:
    copy = declared_only(folder, tmp_path / "copy")
    (copy / "vocab.txt").write_text("of an earlier model")
    os.utime(copy / "vocab.txt", (1, 1))
    verify_folder(copy)
    assert (copy / "vocab.txt").read_text() == "this is vocab.txt"
    (copy / "vocab.txt").write_text("damaged")
    with pytest.raises(UserError, match=r"vocab\.txt: wrong bytes"):
        verify_folder(copy)


def test_the_same_files_give_the_same_archive(folder: Path) -> None:
    before = (folder / ARCHIVE).read_bytes()
    os.utime(folder / "vocab.txt", (1, 1))
    pack(folder)
    assert (folder / ARCHIVE).read_bytes() == before


def test_a_damaged_or_hostile_archive_is_one_line(folder: Path, tmp_path: Path) -> None:
    (folder / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged"):
        verify_folder(folder)
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(UserError, match="refused file name"):
        verify_folder(folder)
    assert not (tmp_path / "outside.txt").exists()
