"""The tables over all scans of a cohort."""

from __future__ import annotations

import csv
import json
import threading

import pytest

from medkd.errors import UserError
from medkd.inference.manifest import manifest_file, open_manifest
from medkd.inference.tables import write_measurements, write_tables
from medkd.lock import lock


def row(name: str, state: str = "done", **labels: dict) -> dict:
    measurements = {
        "labels": labels, "model": "unet_s1", "model_sha256": "ab" * 32, "backend": "onnx", "seconds": 1.5,
        "peak_mb": 400,
    }  # fmt: skip
    done = state == "done"
    return {
        "name": name,
        "scan": f"{name.rpartition('/')[2]}.nii.gz",
        "state": state,
        "seconds": 2.0,
        "error": None if done else "it is damaged.",
        "mask": f"{name}_seg.nii.gz" if done else None,
        "preview": None,
        "dicom_seg": None,
        "measurements": measurements if done else None,
        "key": "0",
        "ended": "2026-01-01",
    }


SPLEEN = {
    "volume_ml": 203.125, "voxels": 22567, "length_mm": 98.0, "mean_hu": 110.25, "sd_hu": 21.0, "touches_border": True,
    "components": 3, "uncertainty": 0.08,
}  # fmt: skip
NOTHING = {
    "volume_ml": 0.0, "voxels": 0, "length_mm": 0.0, "mean_hu": None, "sd_hu": None, "touches_border": False,
    "components": 0,
}  # fmt: skip


def note(out, *rows: dict, shard=None, masks: bool = True) -> None:
    with open_manifest(manifest_file(out, shard)) as append:
        for each in rows:
            append(each)
            if masks and each["mask"]:
                (out / each["mask"]).touch()


@pytest.mark.parametrize("name", ["=cmd|'/C calc'!A0", "+1", "-1", "@a"])
def test_a_spreadsheet_computes_no_name(name, tmp_path):
    write_measurements([row(name, spleen=SPLEEN)], tmp_path)
    with (tmp_path / "measurements.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["name"] == f"'{name}"
    assert json.loads((tmp_path / "measurements.json").read_text())[0]["name"] == name


def test_every_label_of_every_scan_has_a_row(tmp_path):
    write_measurements([row("b", spleen=SPLEEN, liver=NOTHING), row("a", "failed"), row("c", spleen=NOTHING)], tmp_path)
    assert (tmp_path / "measurements.csv").read_text() == (
        "name,scan,label,volume_ml,voxels,length_mm,mean_hu,sd_hu,touches_border,components,uncertainty,"
        "model,model_sha256,backend,seconds,peak_mb\n"
        f"b,b.nii.gz,spleen,203.125,22567,98.0,110.25,21.0,true,3,0.08,unet_s1,{'ab' * 32},onnx,1.5,400\n"
        f"b,b.nii.gz,liver,0.0,0,0.0,,,false,0,,unet_s1,{'ab' * 32},onnx,1.5,400\n"
        f"c,c.nii.gz,spleen,0.0,0,0.0,,,false,0,,unet_s1,{'ab' * 32},onnx,1.5,400\n"
    )
    assert json.loads((tmp_path / "measurements.json").read_text()) == [
        {"name": "b", "scan": "b.nii.gz", "mask": "b_seg.nii.gz", "labels": {"spleen": SPLEEN, "liver": NOTHING},
         "model": "unet_s1", "model_sha256": "ab" * 32, "backend": "onnx", "seconds": 1.5, "peak_mb": 400},
        {"name": "c", "scan": "c.nii.gz", "mask": "c_seg.nii.gz", "labels": {"spleen": NOTHING},
         "model": "unet_s1", "model_sha256": "ab" * 32, "backend": "onnx", "seconds": 1.5, "peak_mb": 400},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ['a,"b', "two\nlines", "Milz äöü", "caf\udce9"])
def test_names_of_any_kind_come_back(name, tmp_path):
    write_measurements([row(name, spleen=SPLEEN)], tmp_path)
    with (tmp_path / "measurements.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        assert next(csv.DictReader(stream))["name"] == name
    assert json.loads((tmp_path / "measurements.json").read_text())[0]["name"] == name


def test_the_tables_are_over_all_manifests_and_all_masks_that_are_there(tmp_path):
    note(tmp_path, row("b", spleen=SPLEEN), row("d", "failed"), shard=(1, 2))
    note(tmp_path, row("a", spleen=NOTHING), shard=(2, 2))
    note(tmp_path, row("killed-before-its-mask", spleen=SPLEEN), masks=False)
    write_tables(tmp_path)
    assert [case["name"] for case in json.loads((tmp_path / "measurements.json").read_text())] == ["a", "b"]
    assert [line.split(",")[0] for line in (tmp_path / "measurements.csv").read_text().splitlines()[1:]] == ["a", "b"]
    report = (tmp_path / "report.html").read_text()
    assert "it is damaged." in report and "killed-before" not in report


def test_what_a_killed_run_has_left_of_its_tables_is_removed(tmp_path):
    tables = ("measurements.csv", "measurements.json", "report.html")
    left = [
        f".writing-{random}-{table}" for random, table in zip(("abcd_123", "12345678", "zzzzzzzz"), tables, strict=True)
    ]
    others = [".writing-123-report.html", ".writing-12345678-ct_seg.nii.gz", "report.html.bak"]
    for name in left + others:
        (tmp_path / name).touch()
    write_tables(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*others, ".lock", *tables}


def test_shards_that_end_together_wait_for_each_other(tmp_path):
    """One holds the lock while another ends; what it has noted meanwhile is in the tables."""
    note(tmp_path, row("a", spleen=SPLEEN), shard=(1, 2))
    thread = threading.Thread(target=write_tables, args=(tmp_path,))
    with (tmp_path / ".lock").open("a") as stream:
        lock(stream, wait=True)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not (tmp_path / "measurements.json").exists()
        note(tmp_path, row("b", spleen=SPLEEN), shard=(2, 2))
    thread.join(60)
    assert [case["name"] for case in json.loads((tmp_path / "measurements.json").read_text())] == ["a", "b"]


def test_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_tables(tmp_path / "nowhere")
