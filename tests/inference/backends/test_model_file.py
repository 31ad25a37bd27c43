"""The ONNX file of a model: where it lies, what it is a hash of, what is remembered of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from medkd.errors import UserError
from medkd.export.onnx import load_onnx
from medkd.inference.backends.model_file import ONNX_FILE, OnnxFile, model_hash

pytest.importorskip("onnx", reason="onnx is not installed: no file can be written")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: no file can be written")


def test_the_hash_by_hand(make_run):
    run = make_run()
    parts = [hashlib.sha256((run / name).read_bytes()).digest() for name in ("model.json", "model.pt")]
    assert model_hash(run) == hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("name", ["model.json", "model.pt"])
def test_the_hash_tells_of_every_change(name, make_run):
    run = make_run()
    before = model_hash(run)
    (run / "report.json").write_text("{}")
    assert model_hash(run) == before
    (run / name).write_bytes((run / name).read_bytes() + b" ")
    assert model_hash(run) != before


def test_a_bundle_has_the_hash_of_its_model(make_run, tmp_path):
    run, bundle = make_run(), tmp_path / "bundle"
    shutil.copytree(run, bundle / "models")
    assert model_hash(bundle) == model_hash(run)
    (bundle / "models" / ONNX_FILE).write_bytes(b"x")
    assert OnnxFile(bundle, model_hash(bundle)).path == bundle / "models" / ONNX_FILE


@pytest.mark.parametrize("name", ["model.json", "model.pt"])
def test_a_model_without_one_of_its_files_is_named(name, make_run):
    run = make_run()
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"{run / name} cannot be read .*No such file"):
        model_hash(run)


def test_it_is_made_once_and_kept_in_the_cache(make_run, empty_cache):
    run = make_run()
    files = sorted(run.iterdir())
    file = OnnxFile(run, model_hash(run))
    assert not file.path.exists() and empty_cache in file.path.parents
    file.make()
    load_onnx(file.path)
    first = file.path.stat()
    OnnxFile(run, model_hash(run)).make()
    assert (file.path.stat().st_mtime_ns, file.path.stat().st_ino) == (first.st_mtime_ns, first.st_ino)
    # The run may be shared, and is left as it is.
    assert sorted(run.iterdir()) == files
    assert list(file.path.parent.iterdir()) == [file.path]


def test_what_lies_beside_the_weights_is_taken(make_run, empty_cache):
    run = make_run()
    (run / ONNX_FILE).write_bytes(b"of the user")
    file = OnnxFile(run, model_hash(run))
    file.make()
    assert file.path.read_bytes() == b"of the user"
    assert not empty_cache.exists()


def test_models_do_not_share_a_file(make_run):
    one, other = make_run("one"), make_run("other", seed=1)
    assert OnnxFile(one, model_hash(one)).path != OnnxFile(other, model_hash(other)).path


def test_a_copy_elsewhere_shares_its_file(make_run, tmp_path):
    run = make_run()
    shutil.copytree(run, tmp_path / "copy")
    assert OnnxFile(run, model_hash(run)).path == OnnxFile(tmp_path / "copy", model_hash(tmp_path / "copy")).path


def test_what_is_remembered_is_of_this_very_file(make_run):
    run = make_run()
    file = OnnxFile(run, model_hash(run))
    (run / ONNX_FILE).write_bytes(b"first")
    file = OnnxFile(run, model_hash(run))
    assert file.known() == {}
    file.remember({"onnx": {"agrees": True}})
    assert OnnxFile(run, model_hash(run)).known() == {"onnx": {"agrees": True}}
    (run / ONNX_FILE).write_bytes(b"second")
    assert OnnxFile(run, model_hash(run)).known() == {}
    (run / ONNX_FILE).write_bytes(b"first")
    assert OnnxFile(run, "f" * 64).known() == {}
    assert OnnxFile(run, model_hash(run)).known() == {"onnx": {"agrees": True}}


def test_what_is_remembered_is_of_a_machine_with_as_many_cores(make_run, monkeypatch):
    file = OnnxFile(make_run(), "a" * 64)
    file.remember({"onnx": {"agrees": True}})
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert file.known() == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_memory_is_none(content, make_run, empty_cache):
    file = OnnxFile(make_run(), "a" * 64)
    file.remember({"onnx": {"agrees": True}})
    (memory,) = empty_cache.rglob("*.json")
    memory.write_bytes(content)
    assert file.known() == {}


def closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder of another user is: nothing can be looked up, read or made in it."""
    real_stat, real_mkdir, real_open = Path.stat, Path.mkdir, Path.open

    def guard(real):
        def call(self: Path, *arguments, **more):
            if folder in (self, *self.parents):
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *arguments, **more)

        return call

    for name, real in (("stat", real_stat), ("mkdir", real_mkdir), ("open", real_open)):
        monkeypatch.setattr(Path, name, guard(real))


@pytest.mark.parametrize("how", ["closed", "a file"])
def test_a_cache_that_cannot_be_used_is_no_reason_to_fail_where_it_is_not_needed(
    how, make_run, empty_cache, monkeypatch
):
    run = make_run()
    if how == "closed":
        closed(empty_cache, monkeypatch)
    else:
        empty_cache.write_text("no folder")
    file = OnnxFile(run, model_hash(run))
    file.remember({"onnx": {"agrees": True}})
    assert file.known() == {}
    with pytest.raises(UserError, match=f"cannot write {file.path}"):
        file.make()
    (run / ONNX_FILE).write_bytes(b"x")
    OnnxFile(run, model_hash(run)).make()


def test_nothing_is_left_of_a_file_that_could_not_be_made(make_run, empty_cache, monkeypatch):
    def broken(network, model, path):
        path.write_bytes(b"half")
        raise RuntimeError("an operator is not supported")

    monkeypatch.setattr("medkd.export.onnx.write_onnx", broken)
    run = make_run()
    with pytest.raises(UserError, match=f"the model of {run} cannot be written as ONNX: choose the backend torch"):
        OnnxFile(run, model_hash(run)).make()
    assert not [file for file in empty_cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_told(package, make_run, monkeypatch):
    run = make_run()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install medkd\[onnx\]"):
        OnnxFile(run, model_hash(run)).make()


def test_what_is_remembered_can_be_read_by_people(make_run, empty_cache):
    OnnxFile(make_run(), "a" * 64).remember({"onnx 1.0, 2 threads": {"agrees": True}})
    (memory,) = empty_cache.rglob("*.json")
    assert json.loads(memory.read_text()) == {"onnx 1.0, 2 threads": {"agrees": True}}
