"""What is written appears when it is complete, or not at all."""

from __future__ import annotations

import pytest

from medkd.errors import UserError
from medkd.export.staging import check_free, staged


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


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "file" / "model.onnx"):
        raise AssertionError("nothing to write to")
