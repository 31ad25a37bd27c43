"""Which slices are shown: of the best, median and worst case where the truth is largest, and what each model draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medkd.data import DecathlonTask, Preprocessing
from medkd.engines import SavedModel
from medkd.files import write_json
from medkd.inference import Segmenter
from medkd.networks import create_network
from medkd.study.job import RESULT_FILE, Job, claim, jobs_of
from medkd.study.pictures import draw_cases, study_pictures
from medkd.study.plan import Run, Study

LABELS = {0: "background", 1: "liver", 2: "spleen"}
SIZE, DEPTH = 32, 6
PICTURES = {"teacher": "big", "student": "alone", "distilled": "kd"}


@pytest.fixture
def task(tmp_path: Path) -> DecathlonTask:
    """Five volumes; the spleen of volume n lies to the left and in front, and is largest in slice n, the liver in 0."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    entries = []
    for number in range(5):
        label = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
        # x grows to the patient's left here, y to the front.
        label[20:26, 22:28] = 2
        label[18:28, 20:30, number] = 2
        label[2:14, 2:14, 0] = 1
        name = f"volume_{number}.nii.gz"
        for part, array in (("images", 100 * (label == 2).astype(np.int16)), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, 1.0, 4.0, 1.0])), folder / part / name)
        entries.append({"image": f"images/{name}", "label": f"labels/{name}"})
    write_json(folder / "dataset.json", {"labels": LABELS, "training": entries})
    return DecathlonTask.load(folder)


def save_model(folder: Path, value: int, window: tuple[float, float] = (0.0, 100.0)) -> None:
    """A network that finds ``value`` in every pixel."""
    definition = {"name": "unet_s1", "in_channels": 3, "out_channels": len(LABELS)}
    weights = create_network(**definition).state_dict()
    for name in list(weights)[-2:]:  # weight and bias of the last layer
        weights[name] = torch.zeros_like(weights[name])
    weights[list(weights)[-1]][value] = 1.0
    SavedModel(definition, Preprocessing(size=SIZE, window=window), LABELS).save(folder, weights)


def make_study(data: Path, pictures: dict[str, str] = PICTURES) -> Study:
    runs = (
        Run("big", "Big one"),
        Run("small", "Small one"),
        Run("alone", "The same, held out", of="small"),
        Run("kd", "B + PMD", teacher="big"),
    )
    empty: dict[str, Any] = {"published": "", "scaled": (), "recipes": {}}
    return Study(
        name="s", title="S", about="", scale="small", data=str(data), phantom=None,
        label="spleen", seeds=(7, 8), threads=1, pictures=pictures, runs=runs, tables=(), **empty,
    )  # fmt: skip


def finish(job: Job, dice: dict[str, float]) -> None:
    labels = {name: {"spleen": {"dice": value}, "liver": {"dice": 0.5}} for name, value in dice.items()}
    cases = [{"name": name, "labels": figures} for name, figures in labels.items()]
    claim(job)
    write_json(job.out / RESULT_FILE, {"cases": cases})


@pytest.fixture
def out(tmp_path: Path, task: DecathlonTask) -> Path:
    """A study whose first seed is finished; the distilled student finds spleen everywhere, the others do not."""
    folder = tmp_path / "study"
    dice = {"volume_0": 0.6, "volume_1": 0.9, "volume_2": 0.1, "volume_3": 0.7, "volume_4": 0.2}
    for job in jobs_of(make_study(task.folder), folder):
        if job.seed == 7:
            finish(job, dice if job.run.name == "kd" else dict.fromkeys(dice, 0.5))
            if job.run.of is None:
                save_model(job.out, {"big": 1, "small": 0, "kd": 2}[job.run.name])
    return folder


def test_best_median_and_worst_case_of_the_distilled_student(out: Path, task: DecathlonTask) -> None:
    pictures = study_pictures(out, make_study(task.folder))
    assert [(picture.case, picture.caption) for picture in pictures] == [
        ("volume_1", "best case of the distilled student, slice 1"),
        ("volume_0", "median case of the distilled student, slice 0"),
        ("volume_2", "worst case of the distilled student, slice 2"),
    ]
    for picture in pictures:
        masks = {name: mask.mean() for name, mask in picture.masks.items()}
        assert masks == {
            "Teacher: Big one": 0.0,  # it finds liver
            "Student alone: The same, held out": 0.0,
            "Student distilled: B + PMD": 1.0,
        }


def test_the_front_is_above_and_the_left_of_the_patient_to_the_right(out: Path, task: DecathlonTask) -> None:
    (picture, *_) = study_pictures(out, make_study(task.folder))
    truth = np.zeros((SIZE, SIZE), dtype=bool)
    truth[SIZE - 30 : SIZE - 20, 18:28] = True
    np.testing.assert_array_equal(picture.truth, truth)
    np.testing.assert_array_equal(picture.image > 0.5, truth)


@pytest.mark.parametrize(
    ("dice", "captions"),
    [
        ([0.4], ["only case"]),
        ([0.4, 0.6], ["best case", "worst case"]),
        ([0.4, 0.6, 0.5], ["best case", "median case", "worst case"]),
    ],
)
def test_no_case_is_shown_twice(out: Path, task: DecathlonTask, dice: list[float], captions: list[str]) -> None:
    by_case = {f"volume_{number}": value for number, value in enumerate(dice)}
    segmenter = Segmenter.load(out / "runs" / "kd-7", "torch")
    pictures = draw_cases({"one": segmenter}, task, by_case, "spleen")
    assert [picture.caption.partition(" of ")[0] for picture in pictures] == captions
    assert [by_case[picture.case] for picture in pictures] == sorted(dice, reverse=True)


@pytest.mark.parametrize(
    "lost",
    ["runs/kd-7/result.json", "runs/big-7/result.json", "runs/alone-7/result.json", "runs/small-7/model.pt",
     "../data/dataset.json"],
)  # fmt: skip
def test_no_pictures_where_something_is_gone(out: Path, task: DecathlonTask, lost: str) -> None:
    assert study_pictures(out, make_study(task.folder))
    (out / lost).unlink()
    assert study_pictures(out, make_study(task.folder)) == []


@pytest.mark.parametrize("changed", ["big", "small", "kd"])
def test_no_pictures_of_a_run_of_another_recipe(out: Path, task: DecathlonTask, changed: str) -> None:
    study = make_study(task.folder)
    runs = tuple(replace(run, overrides={"epochs": 99}) if run.name == changed else run for run in study.runs)
    assert study_pictures(out, replace(study, runs=runs)) == []


def test_no_pictures_where_the_study_names_none(out: Path, task: DecathlonTask) -> None:
    assert study_pictures(out, make_study(task.folder, {})) == []
    assert study_pictures(out, make_study(task.folder, {"teacher": "big", "distilled": "kd"})) == []


def test_no_pictures_of_models_that_see_different_slices(out: Path, task: DecathlonTask) -> None:
    save_model(out / "runs" / "big-7", 1, window=(0.0, 50.0))
    assert study_pictures(out, make_study(task.folder)) == []
