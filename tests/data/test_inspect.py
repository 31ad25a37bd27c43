from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medkd.data.inspect import format_inspection, inspect_task
from medkd.errors import UserError

DATA = os.environ.get("MEDKD_DATA")
AFFINE = np.diag([-10.0, 10.0, 5.0, 1.0])  # voxels of 0.5 ml, orientation LAS
LABELS = {"0": "background", "1": "left kidney", "2": "spleen"}


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def image() -> np.ndarray:
    return np.linspace(-1000, 1397, 60).reshape(3, 4, 5).astype(np.int16)


def label(kidney: int = 3, spleen: int = 7) -> np.ndarray:
    array = np.zeros(60, np.uint8)
    array[:kidney] = 1
    array[kidney : kidney + spleen] = 2
    return array.reshape(3, 4, 5)


def make_task(folder: Path, names: list[str], labels: dict[str, str] = LABELS) -> Path:
    for number, name in enumerate(names):
        save(folder / "imagesTr" / f"{name}.nii.gz", image())
        save(folder / "labelsTr" / f"{name}.nii.gz", label(spleen=7 + number))
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    content = {"name": "Organs", "labels": labels, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_good_case_is_measured(tmp_path: Path) -> None:
    report = inspect_task(make_task(tmp_path, ["case_1"]), progress=False)
    assert report == {
        "name": "Organs",
        "labels": LABELS,
        "problem_count": 0,
        "cases": [
            {
                "name": "case_1",
                "shape": [3, 4, 5],
                "spacing": [10.0, 10.0, 5.0],
                "orientation": "LAS",
                "value_range": [-1000.0, 1397.0],
                "label_values": [0, 1, 2],
                "volumes_ml": {"left kidney": pytest.approx(1.5), "spleen": pytest.approx(3.5)},
                "problems": [],
            }
        ],
    }


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:80])


PROBLEMS: dict[str, tuple[Any, list[str]]] = {
    "image cut": (lambda task: cut(task / "imagesTr/b.nii.gz"), ["imagesTr/b.nii.gz is cut off or damaged"]),
    "image gone": (lambda task: (task / "imagesTr/b.nii.gz").unlink(), ["imagesTr/b.nii.gz is missing"]),
    "label gone": (lambda task: (task / "labelsTr/b.nii.gz").unlink(), ["labelsTr/b.nii.gz is missing"]),
    "both gone": (
        lambda task: [(task / f"{kind}/b.nii.gz").unlink() for kind in ("imagesTr", "labelsTr")],
        ["imagesTr/b.nii.gz is missing", "labelsTr/b.nii.gz is missing"],
    ),
    "4-D": (lambda task: save(task / "imagesTr/b.nii.gz", np.stack([image()] * 2, -1)), ["4-D .3x4x5x2."]),
    "NaN": (lambda task: save(task / "imagesTr/b.nii.gz", np.full((3, 4, 5), np.nan)), ["60 NaN or infinite"]),
    "grid": (lambda task: save(task / "labelsTr/b.nii.gz", label()[:2]), ["b.nii.gz is 2x4x5 but its image"]),
    "place": (lambda task: save(task / "labelsTr/b.nii.gz", label(), np.diag([10, 10, 5, 1])), ["lies elsewhere"]),
    "values": (lambda task: save(task / "labelsTr/b.nii.gz", label() * 2), ["undeclared label values 4"]),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_bad_case_is_recorded_and_the_rest_goes_on(tmp_path: Path, kind: str) -> None:
    spoil, sentences = PROBLEMS[kind]
    spoil(make_task(tmp_path, ["a", "b", "c"]))
    report = inspect_task(tmp_path, progress=False)
    assert report["problem_count"] == len(sentences)
    before, bad, after = report["cases"]
    assert before["problems"] == after["problems"] == []
    assert after["volumes_ml"]["spleen"] == pytest.approx(9 * 0.5)
    for problem, sentence in zip(bad["problems"], sentences, strict=True):
        assert re.search(sentence, problem)
    json.dumps(report, allow_nan=False)
    assert "! b" in format_inspection(report)


def test_half_readable_case_keeps_what_was_read(tmp_path: Path) -> None:
    (make_task(tmp_path, ["a"]) / "imagesTr/a.nii.gz").unlink()
    (case,) = inspect_task(tmp_path, progress=False)["cases"]
    assert case["shape"] is case["spacing"] is case["orientation"] is case["value_range"] is None
    assert case["volumes_ml"]["left kidney"] == pytest.approx(1.5)
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    save(tmp_path / "imagesTr/a.nii.gz", image())
    (case,) = inspect_task(tmp_path, progress=False)["cases"]
    assert case["shape"] == [3, 4, 5]
    assert case["label_values"] is case["volumes_ml"] is None


def test_folder_without_dataset_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        inspect_task(tmp_path, progress=False)


def test_table_of_good_cases(tmp_path: Path) -> None:
    text = format_inspection(inspect_task(make_task(tmp_path, ["case_2", "case_10"]), progress=False))
    assert text.splitlines() == [
        "Organs: 2 cases; labels: 0 background, 1 left kidney, 2 spleen",
        "",
        "case     shape      spacing (mm)  axes       values  labels (ml)",
        "case_2   3x4x5  10.00x10.00x5.00   LAS  -1000..1397          5.0",
        "case_10  3x4x5  10.00x10.00x5.00   LAS  -1000..1397          5.5",
        "",
        "left kidney: 1.5 to 1.5 ml, median 1.5 ml, present in 2 of 2 cases",
        "spleen: 3.5 to 4.0 ml, median 3.8 ml, present in 2 of 2 cases",
        "",
        "No problems.",
    ]


def test_long_names_and_many_labels_stay_within_80_columns(tmp_path: Path) -> None:
    labels = {str(value): f"structure number {value}" for value in range(14)}
    labels["0"] = "background"
    names = [f"volume_of_the_abdomen_in_the_portal_venous_phase_{number}" for number in (1, 2)]
    make_task(tmp_path, names, labels)
    cut(tmp_path / f"imagesTr/{names[1]}.nii.gz")
    lines = format_inspection(inspect_task(tmp_path, progress=False)).splitlines()
    # A line may be longer only where a single word, such as a path, is.
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in lines)
    assert any(line.startswith("vo..") and "phase_1" in line for line in lines)
    assert any(line.startswith("! ..") and "phase_2" in line for line in lines)
    assert "1 problem (cases marked !):" in lines


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is unset: no real task to inspect")
def test_real_task_has_no_problems() -> None:
    folder = Path(str(DATA)) / "btcv_spleen"
    report = inspect_task(folder, progress=False)
    assert report["problem_count"] == 0
    assert len(report["cases"]) == 20
    volumes = {case["name"]: case["volumes_ml"]["spleen"] for case in report["cases"]}
    assert min(volumes.values()) == pytest.approx(75.1, abs=0.05)
    # spleen_19: 82246 voxels of 1.298828125 x 1.298828125 x 3 mm.
    assert max(volumes.values()) == pytest.approx(82246 * 1.298828125**2 * 3 / 1000) == volumes["spleen_19"]
    assert all(case["value_range"] == [-125.0, 275.0] for case in report["cases"])
    assert all(case["orientation"] == "LAS" and case["label_values"] == [0, 1] for case in report["cases"])
    assert max(map(len, format_inspection(report).splitlines())) <= 80
