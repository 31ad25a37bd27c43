"""What is written appears when it is complete, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from medkd.errors import UserError
from medkd.export.staging import check_free, staged
from medkd.files import write_json


def test_a_file_and_a_folder_appear_at_the_end(tmp_path):
    with staged(tmp_path / "new" / "a.bin") as path:
        path.write_text("a")
        assert path.name == "a.bin" and not (tmp_path / "new" / "a.bin").exists()
    (tmp_path / "empty").mkdir()
    with staged(tmp_path / "empty") as path:
        path.mkdir()
        (path / "b").write_text("b")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "empty", "empty/b", "new", "new/a.bin"
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".", "link", "../empty/"])
def test_an_empty_folder_is_filled_and_not_replaced(name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if name != "link":
        Path("link").unlink()
    with staged(Path(name)) as path:
        path.mkdir()
        (path / "b").write_text("b")
        assert not (Path(name) / "b").exists()
    assert [part.name for part in Path(name).iterdir()] == ["b"]
    assert Path("link").is_symlink() == (name == "link")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_what_failed(error, tmp_path):
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "a" / "b" / "c.bin", tmp_path / "there" / "c.bin"):
        with pytest.raises(error), staged(out) as path:
            path.write_text("half")
            raise error
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_place_that_is_taken(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_free(tmp_path / "new")
    check_free(tmp_path / "empty", folder=True)
    for name, folder in (("file", False), ("file", True), ("empty", False), ("full", True), ("link", False)):
        with pytest.raises(UserError, match="exists: choose another"):
            check_free(tmp_path / name, folder)


def test_a_part_that_cannot_be_written_is_told_by_the_name_of_the_whole(tmp_path):
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/a \("), staged(tmp_path / "a") as path:
        path.write_text("in the way")
        write_json(path / "model.json", {})


def test_what_else_goes_wrong_keeps_its_sentence(tmp_path):
    with pytest.raises(UserError, match=r"scan\.nii cannot be read"), staged(tmp_path / "a"):
        raise UserError("scan.nii cannot be read.") from OSError(5, "Input/output error")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "file" / "model.onnx"):
        raise AssertionError("nothing to write to")
