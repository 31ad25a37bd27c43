"""Cohorts: every scan is segmented once, or it is told why not, whatever happens meanwhile."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from medkd.data.scan import read_scan
from medkd.data.transforms import Preprocessing
from medkd.errors import UserError
from medkd.inference import outputs
from medkd.inference.cohort import CohortSettings, run_cohort
from medkd.inference.inputs import Scan, find_scans
from medkd.inference.manifest import manifest_file, open_manifest, read_manifests
from medkd.inference.options import Options
from medkd.inference.segmentation import Segmentation
from medkd.inference.segmenter import Segmenter

LABELS = {0: "background", 1: "spleen"}
TABLES = {".lock", "measurements.csv", "measurements.json", "report.html"}


class PretendedSegmenter:
    """Says spleen where a scan is bright, at once; scans of some names do it harm."""

    model = SimpleNamespace(labels=LABELS, preprocessing=SimpleNamespace(window=(0.0, 100.0)))

    def __call__(self, scan: Scan) -> Segmentation:
        SEEN.append(scan.name)
        volume = read_scan(scan.path, scan.series)
        if scan.name in HARM:
            raise HARM[scan.name]
        mask = (volume.array > 0).astype(np.uint8)
        count = int(mask.sum())
        figures = {
            "volume_ml": count / 100, "voxels": count, "length_mm": 5.0, "mean_hu": 50.0, "sd_hu": 1.0,
            "touches_border": False, "components": 1,
        }  # fmt: skip
        if scan.name == "nan":
            figures["sd_hu"] = float("nan")
        run = {"model": "pretended", "model_sha256": "0" * 64, "backend": "torch", "seconds": 0.1, "peak_mb": 1}
        return Segmentation(mask, volume.affine, volume, {"labels": {"spleen": figures}, **run})


SEEN: list[str] = []
HARM = {
    "user": UserError("user.nii.gz is not what we want: give another."),
    "memory": MemoryError(),
    "inside": ZeroDivisionError("a\nb"),
}


def write_scans(folder: Path, *names: str, shape: tuple[int, int, int] = (24, 20, 6)) -> list[Scan]:
    """Noise; `bad-...` is no scan."""
    for number, name in enumerate(names):
        file = folder / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("bad"):
            file.write_bytes(b"no scan")
            continue
        values = np.random.default_rng(number).normal(0, 100, shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 5.0, 1.0])), file)
    return [Scan(name, folder / f"{name}.nii.gz") for name in names]


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CohortSettings:
    """A model that loads at once."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / "model.pt").write_text("weights")
    monkeypatch.setattr(Segmenter, "load", lambda *_: PretendedSegmenter())
    SEEN.clear()
    return CohortSettings(str(model), preview=False)


def seen() -> list[str]:
    """The names of what was segmented since the last time."""
    names = SEEN.copy()
    SEEN.clear()
    return names


def masks(out: Path) -> dict[str, bytes]:
    """Of every scan that has one."""
    files = [file.relative_to(out).as_posix() for file in out.rglob("*_seg.nii.gz")]
    return {file.removesuffix("_seg.nii.gz"): (out / file).read_bytes() for file in files if file[0] != "."}


def names_in(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


def done(rows: list[dict]) -> list[str]:
    return [row["name"] for row in rows if row["state"] == "done"]


def test_every_scan_has_its_row_its_mask_and_its_place_in_the_tables(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "b", "sub-01/a", "bad", "sub-01/b")
    out = tmp_path / "new" / "out"
    rows = list(run_cohort(replace(pretended, preview=True), scans, out))
    assert [row["name"] for row in rows] == ["b", "bad", "sub-01/a", "sub-01/b"]
    assert [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()] == rows
    a, bad = rows[2], rows[1]
    assert set(a) == {
        "name", "scan", "state", "seconds", "error", "mask", "preview", "dicom_seg", "measurements", "note",
        "key", "ended",
    }  # fmt: skip
    assert (a["scan"], a["state"], a["error"], a["dicom_seg"]) == ("a.nii.gz", "done", None, None)
    assert (a["mask"], a["preview"]) == ("sub-01/a_seg.nii.gz", "sub-01/a_preview.png")
    assert 0 < a["seconds"] < 60
    assert (bad["state"], bad["mask"], bad["preview"], bad["measurements"]) == ("failed", None, None, None)
    assert str(tmp_path / "scans" / "bad.nii.gz") in bad["error"]
    files = [row[kind] for row in rows for kind in ("mask", "preview") if row[kind]]
    assert names_in(out) == {"manifest.jsonl", "sub-01", *TABLES, *files} and len(files) == 6
    voxels = np.asarray(nibabel.load(out / a["mask"]).dataobj)
    np.testing.assert_array_equal(voxels, nibabel.load(scans[1].path).get_fdata() > 0)
    assert a["measurements"]["labels"]["spleen"]["voxels"] == voxels.sum()
    measured = json.loads((out / "measurements.json").read_text())
    assert [case["name"] for case in measured] == ["b", "sub-01/a", "sub-01/b"]
    assert all(row["name"] in (out / "report.html").read_text() for row in rows)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("user", "user.nii.gz is not what we want: give another."),
        ("memory", "{path} needs more memory than there is: give fewer --workers."),
        ("inside", "{path} failed inside (ZeroDivisionError: a): MEDKD_DEBUG=1 shows where."),
        ("nan", "{path} failed inside (ValueError: Out of range float values are not JSON compliant{rest}"),
    ],
)
def test_a_scan_that_fails_is_told_and_the_rest_goes_on(name, sentence, pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", name, "z")
    out = tmp_path / "out"
    rows = {row["name"]: row for row in run_cohort(pretended, scans, out)}
    assert done(list(rows.values())) == ["a", "z"]
    expected = sentence.partition("{rest}")[0].format(path=scans[1].path)
    assert rows[name]["error"].startswith(expected)
    assert names_in(out) == {"manifest.jsonl", *TABLES, "a_seg.nii.gz", "z_seg.nii.gz"}


def test_resuming_does_what_is_not_finished_and_no_more(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b", "bad", "c", "d", "e")
    out = tmp_path / "out"
    list(run_cohort(pretended, scans, out))
    first, times = masks(out), {file: file.stat().st_mtime_ns for file in out.glob("*_seg.nii.gz")}
    seen()

    assert [row["name"] for row in run_cohort(pretended, scans, out, resume=True)] == ["bad"]
    assert seen() == ["bad"]

    (out / "b_seg.nii.gz").unlink()
    other = np.asarray(nibabel.load(scans[4].path).dataobj)[::-1]
    nibabel.save(nibabel.Nifti1Image(other, np.eye(4)), scans[4].path)
    os.utime(scans[5].path, ns=(0, 0))
    write_scans(tmp_path / "scans", "bad2")
    (tmp_path / "scans" / "bad2.nii.gz").rename(scans[2].path)
    rows = list(run_cohort(pretended, scans, out, resume=True))
    assert [(row["name"], row["state"]) for row in rows] == [
        ("b", "done"), ("bad", "failed"), ("d", "done"), ("e", "done"),
    ]  # fmt: skip
    assert {file: file.stat().st_mtime_ns for file in out.glob("[ac]_seg.nii.gz")}.items() <= times.items()
    now = masks(out)
    assert {name for name in first if now[name] != first[name]} == {"d"}
    assert list(run_cohort(pretended, scans[:2], out, resume=True)) == []
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 6 + 1 + 4


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"options": Options(fill_holes=False)}, True),
        ({"options": Options(flips=True)}, True),
        ({"preview": True}, True),
        ({"dicom_seg": False}, True),
        ({"threads": 1}, False),
        ({"backend": "torch"}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_what_changes_the_outputs_is_done_again(change, again, pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a")
    list(run_cohort(pretended, scans, tmp_path / "out"))
    seen()
    list(run_cohort(replace(pretended, **change), scans, tmp_path / "out", resume=True))
    assert seen() == (["a"] if again else [])


def test_another_model_does_all_again_and_the_same_one_elsewhere_does_not(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a")
    out = tmp_path / "out"
    list(run_cohort(pretended, scans, out))
    elsewhere = Path(pretended.model).rename(tmp_path / "elsewhere")
    assert list(run_cohort(replace(pretended, model=str(elsewhere)), scans, out, resume=True)) == []
    (elsewhere / "model.pt").write_text("others")
    assert done(list(run_cohort(replace(pretended, model=str(elsewhere)), scans, out, resume=True))) == ["a"]


def test_the_voxels_beside_a_header_and_the_slices_of_a_series_count_too(pretended, tmp_path):
    folder = tmp_path / "scans"
    (folder / "series" / "sub").mkdir(parents=True)
    for name in ("voxels.raw", "ct.raw", "other.txt", "series/1.dcm", "series/sub/2.dcm", "series/3.dcm"):
        (folder / name).write_text("x")
    (folder / "ct.mhd").write_text("NDims = 3\nElementDataFile = voxels.raw\n")
    slices = (folder / "series" / "1.dcm", folder / "series" / "sub" / "2.dcm")
    scans = [Scan("ct", folder / "ct.mhd"), Scan("series", folder / "series", "1.2.3", slices)]

    def keys() -> list[str]:
        return [row["key"] for row in run_cohort(pretended, scans, tmp_path / "out")]

    before = keys()
    for name, changed in (
        ("ct.raw", []), ("other.txt", []), ("voxels.raw", [0]), ("ct.mhd", [0]), ("series/sub/2.dcm", [1]),
        ("series/3.dcm", []),
    ):  # fmt: skip
        (folder / name).write_text(f"{name} has changed")
        after = keys()
        assert [number for number in (0, 1) if before[number] != after[number]] == changed, name
        before = after


def test_without_resume_all_is_done_anew_and_files_are_what_the_manifest_says(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b")
    out = tmp_path / "out"
    list(run_cohort(replace(pretended, preview=True), scans, out))
    list(run_cohort(pretended, write_scans(tmp_path / "others", "x"), out, shard=(1, 1)))
    seen()
    scans[1].path.write_bytes(b"damaged since")
    rows = list(run_cohort(pretended, scans, out))
    assert seen() == ["a", "b"] and done(rows) == ["a"]
    assert {name: row["state"] for name, row in read_manifests(out).items()} == {
        "a": "done",
        "b": "failed",
        "x": "done",
    }
    manifests = {"manifest.jsonl", "manifest-1-of-1.jsonl"}
    assert names_in(out) == {*TABLES, *manifests, "a_seg.nii.gz", "x_seg.nii.gz"}
    assert [case["name"] for case in json.loads((out / "measurements.json").read_text())] == ["a", "x"]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_shards_together_are_the_whole(count, pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "d", "b", "a", "bad", "e", "c", "f")
    list(run_cohort(pretended, scans, tmp_path / "whole"))
    out = tmp_path / "shards"
    parts = []
    for number in range(count, 0, -1):
        random.Random(number).shuffle(scans)
        parts.append([row["name"] for row in run_cohort(pretended, scans, out, shard=(number, count))])
    ordered = ["a", "b", "bad", "c", "d", "e", "f"]
    assert parts[::-1] == [ordered[number::count] for number in range(count)]
    assert masks(out) == masks(tmp_path / "whole")
    for name, kept in (("measurements.csv", slice(0, 12)), ("measurements.json", slice(None))):
        assert (out / name).read_text().splitlines()[kept] == (tmp_path / "whole" / name).read_text().splitlines()[kept]
    assert names_in(out) - names_in(tmp_path / "whole") == {f"manifest-{n + 1}-of-{count}.jsonl" for n in range(count)}
    # What shards have finished, a run over all leaves alone, and the other way round.
    assert [row["name"] for row in run_cohort(pretended, scans, out, resume=True)] == ["bad"]
    assert done(list(run_cohort(pretended, scans, tmp_path / "whole", shard=(1, 2), resume=True))) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"shard": (0, 3)}, "--shard is 0/3"),
        ({"shard": (4, 3)}, "--shard is 4/3"),
        (
            {"scans": [Scan("a", Path("x/a.nii")), Scan("a", Path("y/a.nii"))]},
            r"x/a\.nii and y/a\.nii are both named a",
        ),
        ({"scans": [Scan("../a", Path("a.nii"))]}, "is no name"),
        ({"settings": CohortSettings("nowhere")}, "nowhere"),
        ({"out": Path("/proc/nowhere")}, "cannot write /proc/nowhere"),
        ({"out": Path(__file__)}, "cannot write"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_segmented(arguments, sentence, pretended, tmp_path):
    out = tmp_path / "out"
    usual = {"settings": pretended, "scans": write_scans(tmp_path / "scans", "a"), "out": out}
    with pytest.raises(UserError, match=sentence):
        list(run_cohort(**{**usual, **arguments}))
    assert seen() == [] and not out.exists()


def test_a_model_that_cannot_be_loaded_stops_all(pretended, monkeypatch, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b")
    out = tmp_path / "out"
    list(run_cohort(pretended, scans, out))
    before = masks(out)

    for error, sentence in ((UserError("no usable model."), "no usable model"), (KeyError("x"), "cannot be loaded")):

        def load(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Segmenter, "load", load)
        with pytest.raises(UserError, match=sentence):
            list(run_cohort(pretended, scans, out))
    assert masks(out) == before and len((out / "manifest.jsonl").read_text().splitlines()) == 2


def test_the_bar_is_for_terminals_and_for_those_who_ask(pretended, monkeypatch, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b", "c")

    def shown(is_terminal: bool, **arguments: Any) -> list[str]:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        list(run_cohort(pretended, scans, tmp_path / "out", **arguments))
        return stream.getvalue().split("\r")

    lines = shown(True, progress=True)
    assert any(line.startswith("segmenting:") and "| 0/3 [00:00<" in line for line in lines)
    assert max(map(len, lines)) <= 80 and lines[-2].strip() == "" and lines[-1] == ""
    assert shown(True) == shown(False, progress=True) == shown(True, progress=True, resume=True) == [""]


def test_two_runs_at_the_same_manifest(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b")
    out = tmp_path / "out"
    with open_manifest(manifest_file(out)):
        with pytest.raises(UserError, match="a run is writing"):
            list(run_cohort(pretended, scans, out))
        assert seen() == []
        assert done(list(run_cohort(pretended, scans, out, shard=(1, 2)))) == ["a"]


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_who_stops_early_has_tables_of_what_is_done_and_nothing_else(how, pretended, monkeypatch, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b", "c")
    out = tmp_path / "out"
    rows = run_cohort(pretended, scans, out)
    assert next(rows)["name"] == "a"
    if how == "close":
        rows.close()
    else:
        monkeypatch.setitem(HARM, "b", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            next(rows)
    assert names_in(out) == {"manifest.jsonl", *TABLES, "a_seg.nii.gz"}
    assert [case["name"] for case in json.loads((out / "measurements.json").read_text())] == ["a"]
    with pytest.raises(StopIteration):
        next(rows)
    monkeypatch.delitem(HARM, "b", raising=False)
    assert done(list(run_cohort(pretended, scans, out, resume=True))) == ["b", "c"]


def test_what_killed_runs_have_left_of_own_scans_is_removed_and_of_others_not(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b")
    out = tmp_path / "out"
    out.mkdir()
    own, others = outputs.new_workspace(out, "a"), outputs.new_workspace(out, "b")
    (own / "a_seg.nii.gz").touch()
    rows = run_cohort(pretended, scans, out, shard=(1, 2))
    assert next(rows)["name"] == "a" and not own.exists()
    assert list(rows) == [] and others.exists()
    list(run_cohort(pretended, scans, out, shard=(2, 2), resume=True))
    assert not others.exists()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_a_fork(act: Callable[[], Any]) -> int:
    """Do something in a copy of this process; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def allow_files_of(size: int) -> None:
    """As on a full disk, nothing can be written beyond so many bytes of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@needs_fork
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("call", range(1, 13))
def test_killed_at_any_change_of_a_file_nothing_is_lost_or_left(call, again, pretended, monkeypatch, tmp_path):
    """SIGKILL right before each rename and each row of the first two scans, over an earlier cohort too."""
    scans = write_scans(tmp_path / "scans", "a", "b", "c")
    settings, whole, out = replace(pretended, preview=True), tmp_path / "whole", tmp_path / "out"
    earlier: dict[str, bytes] = {}
    if again:
        for scan, other in zip(scans, write_scans(tmp_path / "others", "z", "a", "b", "c")[1:], strict=True):
            scan.path.rename(tmp_path / "kept.nii.gz")
            other.path.rename(scan.path)
            (tmp_path / "kept.nii.gz").rename(other.path)
        list(run_cohort(settings, scans, out))
        earlier = masks(out)
        for scan in scans:
            (tmp_path / "others" / scan.path.name).rename(scan.path)
    expected = {row["name"]: row for row in run_cohort(settings, scans, whole)}

    def killed_run() -> None:
        calls = itertools.count(1)

        def counted(function: Callable) -> Callable:
            def count(*arguments: Any) -> Any:
                if next(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments)

            return count

        monkeypatch.setattr(Path, "replace", counted(Path.replace))
        monkeypatch.setattr(os, "fsync", counted(os.fsync))
        list(run_cohort(settings, scans, out))

    assert in_a_fork(killed_run) == -signal.SIGKILL
    rows, before = read_manifests(out), masks(out)
    finished = {name for name in before if rows[name]["key"] == expected[name]["key"]}
    for name, mask in before.items():
        assert rows[name]["state"] == "done"
        assert mask == (masks(whole) if name in finished else earlier)[name]
    seen()
    list(run_cohort(settings, scans, out, resume=True))
    assert seen() == sorted(set(expected) - finished)
    assert masks(out) == masks(whole) and names_in(out) == names_in(whole)
    assert {name: row["measurements"] for name, row in read_manifests(out).items()} == {
        name: row["measurements"] for name, row in expected.items()
    }
    assert list(run_cohort(settings, scans, out, resume=True)) == []


@needs_fork
@pytest.mark.parametrize("shape", [(64, 64, 32)])
def test_a_full_disk_fails_the_scans_that_do_not_fit(shape, pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "c") + write_scans(tmp_path / "scans", "b", shape=shape)
    out = tmp_path / "out"

    def run() -> None:
        allow_files_of(8_000)
        try:
            list(run_cohort(pretended, scans, out))
        except UserError as error:  # The report does not fit either.
            assert "report.html (File too large): free some space" in str(error)

    assert in_a_fork(run) == 0
    rows = read_manifests(out)
    assert done(list(rows.values())) == ["a", "c"]
    assert rows["b"]["error"].startswith(f"cannot write {out / 'b_seg.nii.gz'} (File too large): free some space")
    assert names_in(out) == {"manifest.jsonl", *TABLES - {"report.html"}, "a_seg.nii.gz", "c_seg.nii.gz"}


@needs_fork
def test_a_manifest_that_cannot_be_written_stops_all(pretended, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b", "c")
    settings, out = replace(pretended, preview=True), tmp_path / "out"
    list(run_cohort(settings, scans, tmp_path / "whole"))

    def run() -> None:
        rows = run_cohort(settings, scans, out)
        assert next(rows)["name"] == "a"
        size = (out / "manifest.jsonl").stat().st_size
        with (out / "manifest.jsonl").open("a") as stream:  # So that a file of its size holds what else is written.
            stream.write(" " * (1_000_000 - size - 10) + "\n")
        allow_files_of(1_000_000)
        with pytest.raises(UserError, match=r"cannot write .*manifest\.jsonl"):
            next(rows)

    assert in_a_fork(run) == 0
    assert names_in(out) - TABLES == {"manifest.jsonl", "a_seg.nii.gz", "a_preview.png"}
    content = (out / "manifest.jsonl").read_text().splitlines()
    (out / "manifest.jsonl").write_text(content[0] + "\n" + content[2])
    list(run_cohort(settings, scans, out, resume=True))
    assert masks(out) == masks(tmp_path / "whole") and names_in(out) == names_in(tmp_path / "whole")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> CohortSettings:
    """A tiny network; ONNX Runtime, since torch takes seconds to import in every process."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import torch

    from medkd.engines.saved_model import SavedModel
    from medkd.networks import create_network

    torch.manual_seed(0)
    description = {"name": "unet_s1", "in_channels": 3, "out_channels": 2, "channels": [4, 8]}
    network = create_network(**description).eval()
    with torch.no_grad():
        logits = network(torch.rand(4, 3, 32, 32))
        # Half of a scan is background then, in another pattern for every scan.
        *_, bias = (value for name, value in network.named_parameters() if name.endswith("bias"))
        bias[0] += (logits[:, 1] - logits[:, 0]).median()
    folder = tmp_path_factory.mktemp("model")
    SavedModel(description, Preprocessing(32, (-200.0, 200.0)), LABELS).save(folder, network.state_dict())
    return CohortSettings(str(folder), backend="onnx", threads=1)


@pytest.fixture
def known(real: CohortSettings) -> CohortSettings:
    """The same, once the agreement with torch is known, so that no other process finds it out."""
    Segmenter.load(real.model, real.backend, threads=real.threads)
    return real


def test_several_workers_have_the_masks_of_one(known, tmp_path):
    scans = write_scans(tmp_path / "scans", *"abcdefgh", "bad", "sub/i")
    list(run_cohort(known, scans, tmp_path / "one"))
    rows = list(run_cohort(known, scans, tmp_path / "two", workers=2))
    assert sorted(done(rows)) == [*"abcdefgh", "sub/i"]
    assert masks(tmp_path / "two") == masks(tmp_path / "one") and len(masks(tmp_path / "two")) == 9
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_fails_its_scan_alone(workers, known, tmp_path):
    scans = write_scans(tmp_path / "scans", *"abcdefghijkl")
    out = tmp_path / "out"
    rows = run_cohort(known, scans, out, workers=workers)
    ended = [next(rows)]
    multiprocessing.active_children()[0].kill()
    ended += rows
    (failed,) = (row for row in ended if row["state"] == "failed")
    path = tmp_path / "scans" / failed["scan"]
    assert failed["error"] == (
        f"{path} cannot be segmented: its process ended with SIGKILL, if memory ran out: give fewer --workers."
    )
    assert failed["seconds"] is None and len(masks(out)) == 11
    assert not [name for name in names_in(out) if name.startswith(".writing")]
    assert done(list(run_cohort(known, scans, out, workers=workers, resume=True))) == [failed["name"]]


def test_a_model_that_no_worker_can_load_stops_all(known, tmp_path):
    scans = write_scans(tmp_path / "scans", "a", "b", "c")
    with pytest.raises(UserError, match="the backend 'abacus' is not known"):
        list(run_cohort(replace(known, backend="abacus"), scans, tmp_path / "out", workers=2))
    assert masks(tmp_path / "out") == {} and multiprocessing.active_children() == []


def test_ray_has_the_masks_of_one_process(known, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    scans = write_scans(tmp_path / "scans", *"abcd", "bad")
    list(run_cohort(known, scans, tmp_path / "one"))
    monkeypatch.chdir(tmp_path)
    relative = [Scan(scan.name, scan.path.relative_to(tmp_path)) for scan in scans]
    settings = replace(known, model=os.path.relpath(known.model))
    rows = list(run_cohort(settings, relative, Path("ray"), workers=2, ray=""))
    assert not ray.is_initialized() and sorted(done(rows)) == [*"abcd"]
    assert masks(tmp_path / "ray") == masks(tmp_path / "one")
    assert names_in(tmp_path / "ray") == names_in(tmp_path / "one")


PROGRAM = """
import json, sys
from medkd.inference.cohort import CohortSettings, run_cohort
from medkd.inference.inputs import find_scans
settings, scans, out, arguments = sys.argv[1:]
for row in run_cohort(CohortSettings(**json.loads(settings)), find_scans([scans]), out, **json.loads(arguments)):
    pass
"""
BAD: tuple[Callable[[Path], object], ...] = (
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"no scan"),
    lambda file: file.write_bytes(file.read_bytes()[:-200]),
    lambda file: file.write_bytes(file.read_bytes()[:20]),
    lambda file: save(file, np.zeros((20, 18, 5, 2), np.int16)),
    lambda file: save(file, np.full((20, 18, 5), np.nan, np.float32)),
    lambda file: save(file, np.zeros((20, 18, 5), np.int16)),
    lambda file: save(file, np.zeros((20, 18), np.int16)),
    lambda file: save(file, np.ones((20, 18, 5), np.complex64)),
    lambda file: save(file, np.random.default_rng(0).normal(size=(20, 18, 5)), np.diag([2.0, 2.0, 0.0, 1.0])),
)


def save(file: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    image = nibabel.Nifti1Image(array, None)
    image.header.set_sform(np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine, code=1)
    nibabel.save(image, file)


def started(settings: CohortSettings, scans: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    content = {"model": settings.model, "backend": settings.backend, "threads": 1, "preview": False}
    words = [json.dumps(content), str(scans), str(out), json.dumps({"workers": workers, "resume": True})]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words])


def places(out: Path) -> dict[Path, tuple[int, int]]:
    """Of every mask, what changes when it is written again."""
    return {out / f"{name}_seg.nii.gz": place(out / f"{name}_seg.nii.gz") for name in masks(out)}


def place(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_ino, facts.st_mtime_ns


def test_a_cohort_of_200_killed_three_times_has_the_masks_of_one_that_was_not(known, tmp_path):
    folder, whole, out = tmp_path / "scans", tmp_path / "whole", tmp_path / "out"
    names = [f"site-{number % 3}/scan-{number:03}" for number in range(200)]
    scans = write_scans(folder, *names, shape=(20, 18, 5))
    chance = random.Random(8)
    bad = chance.sample(scans, len(BAD))
    for scan, spoil in zip(bad, BAD, strict=True):
        spoil(scan.path)
    list(run_cohort(replace(known, preview=False), find_scans([folder]), whole))
    expected = masks(whole)
    assert len(expected) == 190 and len(set(expected.values())) > 100

    def noted() -> int:
        manifest = out / "manifest.jsonl"
        return manifest.read_bytes().count(b"\n") if manifest.exists() else 0

    before: dict[Path, tuple[int, int]] = {}
    for workers in (1, 2, 1):
        process = started(known, folder, out, workers)
        enough = noted() + chance.randint(20, 50)
        while noted() < enough:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        now = places(out)
        assert before.items() <= now.items() and len(now) < 190
        rows = read_manifests(out)
        assert all(rows[name]["state"] == "done" for name in masks(out))
        before = now
    assert started(known, folder, out, 1).wait() == 0

    assert before.items() <= places(out).items()
    assert masks(out) == expected
    assert names_in(out) == names_in(whole)
    rows = read_manifests(out)
    assert {name for name, row in rows.items() if row["state"] == "failed"} == {scan.name for scan in bad}
    assert len(rows) == 200 and all(str(scan.path) in rows[scan.name]["error"] for scan in bad)
    assert len(json.loads((out / "measurements.json").read_text())) == 190
