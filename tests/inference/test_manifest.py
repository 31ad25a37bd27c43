"""The record of a cohort: what is read back, whatever happened while it was written."""

from __future__ import annotations

import json
import resource

import pytest

from medkd.errors import UserError
from medkd.inference.manifest import manifest_file, open_manifest, read_manifests


def row(name: str, ended: str = "2026-01-01T00:00:00.000000+00:00", **more) -> dict:
    content = {"name": name, "state": "done", "mask": f"{name}_seg.nii.gz", "preview": None, "key": "0"}
    return {**content, "ended": ended, **more}


def write(file, *rows: dict) -> None:
    with open_manifest(file) as append:
        for each in rows:
            append(each)


@pytest.mark.parametrize(
    ("shard", "name"),
    [(None, "manifest.jsonl"), ((1, 1), "manifest-1-of-1.jsonl"), ((12, 40), "manifest-12-of-40.jsonl")],
)
def test_every_shard_has_a_manifest_of_its_own(shard, name, tmp_path):
    assert manifest_file(tmp_path, shard) == tmp_path / name


def test_rows_are_appended_one_a_line(tmp_path):
    file = tmp_path / "out" / "manifest.jsonl"
    rows = [row("a"), row("Straße/\udcff \n", error="two\nlines"), row("a", state="failed")]
    write(file, *rows[:2])
    write(file, rows[2])
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows


def test_the_last_row_of_a_name_counts_in_whichever_manifest_it_stands(tmp_path):
    write(tmp_path / "manifest.jsonl", row("a", "2026-01-01"), row("b", "2026-01-05"), row("a", "2026-01-03"))
    write(tmp_path / "manifest-1-of-2.jsonl", row("a", "2026-01-02"), row("c", "2026-01-02"))
    write(tmp_path / "manifest-2-of-2.jsonl", row("b", "2026-01-04"), row("c", "2026-01-02", state="failed"))
    (tmp_path / "manifest.jsonl.bak").write_text("no row")
    found = {name: (each["ended"], each["state"]) for name, each in read_manifests(tmp_path).items()}
    assert found == {"a": ("2026-01-03", "done"), "b": ("2026-01-05", "done"), "c": ("2026-01-02", "failed")}


def test_a_torn_last_line_does_not_count_and_is_gone_when_the_next_row_comes(tmp_path):
    file = manifest_file(tmp_path)
    write(file, row("a"))
    whole = file.read_bytes()
    line = json.dumps(row("b")).encode()
    for length in (1, 20, len(line)):
        file.write_bytes(whole + line[:length])
        assert set(read_manifests(tmp_path)) == {"a"}
        write(file, row("c"))
        assert file.read_bytes() == whole + json.dumps(row("c")).encode() + b"\n"


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", '{"name": "b"}', '{"name": "b", "state": "do', "\x00\x00", "\udcff"]
)
def test_a_damaged_line_is_named(line, tmp_path):
    file = manifest_file(tmp_path)
    write(file, row("a"))
    with file.open("ab") as stream:
        stream.write(line.encode("utf-8", "surrogateescape") + b"\n")
    write(file, row("c"))
    with pytest.raises(UserError, match=r"line 2 of .*manifest\.jsonl is damaged"):
        read_manifests(tmp_path)


def test_a_manifest_has_one_run_at_a_time(tmp_path):
    file = manifest_file(tmp_path)
    with open_manifest(file) as append:
        append(row("a"))
        with pytest.raises(UserError, match=r"a run is writing .*manifest\.jsonl"), open_manifest(file):
            pass
        with open_manifest(manifest_file(tmp_path, (1, 2))):
            pass
        append(row("b"))
    write(file, row("c"))
    assert set(read_manifests(tmp_path)) == {"a", "b", "c"}


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    file = manifest_file(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot write .*manifest\.jsonl \("), open_manifest(file):
        pass


def test_a_row_that_does_not_fit_on_the_disk_is_told_and_does_not_count(tmp_path):
    file = manifest_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_manifest(file) as append:
        append(row("a"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 30, hard))
        try:
            with pytest.raises(UserError, match=r"cannot write .*manifest\.jsonl \(File too large\)"):
                append(row("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not file.read_bytes().endswith(b"\n")
    write(file, row("c"))
    assert set(read_manifests(tmp_path)) == {"a", "c"}
