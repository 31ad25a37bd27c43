from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from medkd.data import download_task
from medkd.data.decathlon import Case, DecathlonTask, Split
from medkd.errors import UserError

DATA = os.environ.get("MEDKD_DATA")
LABELS = {"0": "background", "1": "spleen"}


def entry(name: str) -> dict[str, str]:
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}


def make_task(folder: Path, names: list[str], **changes: Any) -> Path:
    """A task whose files are empty: loading looks for them only. A change of None drops the key."""
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / sub / f"{name}.nii.gz").touch()
    content = {"name": "Spleen", "labels": LABELS, "training": [entry(name) for name in names]} | changes
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def numbered(count: int) -> list[str]:
    return [f"spleen_{number}" for number in range(1, count + 1)]


def test_load_lists_cases_in_natural_order(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, ["spleen_10", "spleen_2", "spleen_1"]))
    assert task.name == "Spleen"
    assert task.labels == {0: "background", 1: "spleen"}
    assert task.foreground == {1: "spleen"}
    assert [case.name for case in task.cases] == ["spleen_1", "spleen_2", "spleen_10"]
    assert task.cases[0] == Case(
        "spleen_1", tmp_path / "imagesTr/spleen_1.nii.gz", tmp_path / "labelsTr/spleen_1.nii.gz"
    )
    assert task.unlabelled == []


def test_test_images_are_kept_when_they_exist(tmp_path: Path) -> None:
    make_task(tmp_path, ["a"], test=["./imagesTs/b.nii.gz", {"image": "./imagesTs/c.nii"}, "./imagesTs/gone.nii.gz"])
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs/b.nii.gz").touch()
    (tmp_path / "imagesTs/c.nii").touch()
    assert DecathlonTask.load(tmp_path).unlabelled == [
        Case("b", tmp_path / "imagesTs/b.nii.gz", None),
        Case("c", tmp_path / "imagesTs/c.nii", None),
    ]


def test_shadow_files_of_macos_are_ignored(tmp_path: Path) -> None:
    make_task(tmp_path, ["a"], training=[entry("a"), entry("._a")], test=["./imagesTr/._a.nii.gz"])
    task = DecathlonTask.load(tmp_path)
    assert [case.name for case in task.cases] == ["a"]
    assert task.unlabelled == []


def test_name_falls_back_to_the_folder(tmp_path: Path) -> None:
    assert DecathlonTask.load(make_task(tmp_path / "Task09_Spleen", ["a"], name=None)).name == "Task09_Spleen"


def test_another_json_file_of_the_folder_can_be_loaded(tmp_path: Path) -> None:
    make_task(tmp_path, ["a"])
    content = {"labels": {"0": "background", "1": "liver"}, "training": [entry("a")]}
    (tmp_path / "dataset13.json").write_text(json.dumps(content), encoding="utf-8")
    task = DecathlonTask.load(tmp_path / "dataset13.json")
    assert task.folder == tmp_path
    assert task.labels[1] == "liver"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training": None}, "dataset.json has no 'training'"),
        ({"labels": None}, "dataset.json has no 'labels'"),
        ({"training": []}, "lists no training cases"),
        ({"training": {"a": 1}}, "must hold a list under 'training'"),
        ({"training": [7]}, "without an image file name: 7"),
        ({"training": [{"label": "./labelsTr/a.nii.gz"}]}, "without an image file name"),
        ({"training": ["./imagesTr/a.nii.gz"]}, "no label for the training case a"),
        ({"training": [entry("a"), entry("a")]}, "lists the case a twice under 'training'"),
        ({"training": [entry("a"), {"image": "x/a.nii", "label": "x"}]}, "lists the case a twice"),
        ({"training": [entry("a"), entry("gone")]}, "gone.nii.gz is missing"),
        ({"training": [entry("a") | {"label": "./labelsTr/gone.nii.gz"}]}, "labelsTr/gone.nii.gz is missing"),
        ({"labels": {"background": 0, "spleen": 1}}, "must map label values to names"),
        ({"labels": ["background", "spleen"]}, "must map label values to names"),
        ({"labels": {"0": "background"}}, "must map label values to names"),
        ({"labels": {"1": "spleen", "2": "liver"}}, "must map label values to names"),
        ({"labels": {"0": "background", "1": 5}}, "must map label values to names"),
        ({"labels": {"0": "background", "1": "kidney", "2": "kidney"}}, "two label values the same name"),
    ],
)
def test_bad_dataset_json(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    make_task(tmp_path, ["a"], **changes)
    with pytest.raises(UserError, match=sentence) as caught:
        DecathlonTask.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "is missing"), ("{oops", "cannot be read as JSON"), ("[]", "no JSON object")]
)
def test_dataset_json_that_cannot_be_read(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"dataset.json .*{sentence}|dataset.json {sentence}"):
        DecathlonTask.load(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        DecathlonTask.load(tmp_path / "nowhere")


def test_missing_files_can_be_left_to_the_caller(tmp_path: Path) -> None:
    make_task(tmp_path, ["a"], training=[entry("a"), entry("gone")])
    assert [case.name for case in DecathlonTask.load(tmp_path, check_files=False).cases] == ["a", "gone"]


def test_select_keeps_the_order_asked_for(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, numbered(4)))
    assert [case.name for case in task.select(["spleen_3", "spleen_1"])] == ["spleen_3", "spleen_1"]
    with pytest.raises(UserError, match="has no case spleen_9"):
        task.select(["spleen_1", "spleen_9"])


def test_drawn_split_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    names = numbered(20)
    first = DecathlonTask.load(make_task(tmp_path / "a", names)).split(seed=3)
    mixed = names.copy()
    random.Random(0).shuffle(mixed)
    assert DecathlonTask.load(make_task(tmp_path / "b", mixed)).split(seed=3) == first
    others = [DecathlonTask.load(tmp_path / "a").split(seed=seed) for seed in range(10)]
    assert len({tuple(split.test) for split in others}) > 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"student_share": 0}, "student's share is 0"),
        ({"student_share": 1.5}, "student's share is 1.5"),
        ({"student_share": float("nan")}, "student's share is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_split_options_out_of_range(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DecathlonTask.load(make_task(tmp_path, numbered(4))).split(**options)


def test_two_cases_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 cases: give at least 3"):
        DecathlonTask.load(make_task(tmp_path, numbered(2))).split()


GIVEN: dict[str, Any] = {
    "unit": "volume",
    "teacher_train": ["spleen_10", "spleen_3", "spleen_4", "spleen_1"],
    "student_train_half": ["spleen_4", "spleen_1"],
    "val": ["spleen_7"],
    "test": ["spleen_8"],
}


def test_split_file_of_the_folder_is_obeyed(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, numbered(10)))
    (tmp_path / "splits.json").write_text(json.dumps(GIVEN), encoding="utf-8")
    assert task.split(seed=5) == Split(
        train=["spleen_1", "spleen_3", "spleen_4", "spleen_10"],
        student=["spleen_1", "spleen_4"],
        val=["spleen_7"],
        test=["spleen_8"],
    )
    quarter = task.split(student_share=0.25)
    assert len(quarter.student) == 1
    assert set(quarter.student) <= set(GIVEN["teacher_train"])
    drawn = {tuple(task.split(seed=seed, student_share=0.25).student) for seed in range(30)}
    assert len(drawn) == 4


def test_split_file_given_by_name_comes_first(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path / "task", numbered(10)))
    (tmp_path / "task/splits.json").write_text(json.dumps(GIVEN), encoding="utf-8")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"teacher_train": ["spleen_2"], "val": ["spleen_5"], "test": ["spleen_6"]}))
    assert task.split(file=other) == Split(["spleen_2"], ["spleen_2"], ["spleen_5"], ["spleen_6"])
    with pytest.raises(UserError, match=r"nowhere\.json is missing"):
        task.split(file=tmp_path / "nowhere.json")


def test_cases_to_learn_from_without_labels(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, numbered(10)))
    (tmp_path / "splits.json").write_text(json.dumps(GIVEN), encoding="utf-8")
    new = Case("new_1", tmp_path / "imagesTs" / "new_1.nii.gz", None)
    cases = replace(task, unlabelled=[new]).without_labels(task.split())
    assert [(case.name, case.label) for case in cases] == [("spleen_3", None), ("spleen_10", None), ("new_1", None)]


def test_a_case_of_the_test_list_that_has_a_label_too_is_not_unlabelled(tmp_path: Path) -> None:
    folder = make_task(tmp_path, numbered(10), test=["./imagesTr/spleen_3.nii.gz", "./imagesTs/new_1.nii.gz"])
    (tmp_path / "imagesTs").mkdir(exist_ok=True)
    (tmp_path / "imagesTs" / "new_1.nii.gz").touch()
    assert [case.name for case in DecathlonTask.load(folder).unlabelled] == ["new_1"]


@pytest.mark.parametrize("again", [os.link, shutil.copyfile])
def test_nor_is_a_second_file_of_it(again: Callable[[Path, Path], Any], tmp_path: Path) -> None:
    folder = make_task(tmp_path, numbered(10), test=["./imagesTs/spleen_3.nii.gz", "./imagesTs/spleen_7.nii.gz"])
    (tmp_path / "imagesTs").mkdir(exist_ok=True)
    again(folder / "imagesTr" / "spleen_3.nii.gz", tmp_path / "imagesTs" / "spleen_3.nii.gz")
    for part, patient in (("imagesTr", b"one"), ("imagesTs", b"two")):
        (tmp_path / part / "spleen_7.nii.gz").write_bytes(patient)
    assert [case.name for case in DecathlonTask.load(folder).unlabelled] == ["spleen_7"]


def test_nothing_is_left_without_a_label(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, numbered(10)))
    with pytest.raises(UserError, match="no volume without a label: give the student a smaller share"):
        task.without_labels(task.split(student_share=1.0))


def test_the_cases_of_a_part(tmp_path: Path) -> None:
    task = DecathlonTask.load(make_task(tmp_path, numbered(8)))
    parts = [[case.name for case in task.part(part, seed=3)] for part in ("train", "val", "test")]
    split = task.split(seed=3)
    assert parts == [split.train, split.val, split.test]
    assert task.part("all") == task.cases
    with pytest.raises(UserError, match="'half' is not known: choose train, val, test or all"):
        task.part("half")


def test_existing_task_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, **options: Any) -> None:
            raise AssertionError("downloaded")

    monkeypatch.setattr("monai.apps.DecathlonDataset", Refusing)
    make_task(tmp_path / "Task09_Spleen", ["a"])
    assert download_task("Task09_Spleen", tmp_path) == tmp_path / "Task09_Spleen"


def test_download_unpacks_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MONAI takes an archive that lies in the root and has the right checksum, so its real code runs; only the question
    # to the server for the file's name has to be answered here.
    from monai.apps import DecathlonDataset

    monkeypatch.setattr("monai.apps.utils.get_filename_from_url", lambda url: url.rsplit("/", 1)[-1])
    keys = ("description", "reference", "licence", "tensorImageSize", "modality", "numTraining", "numTest")
    make_task(tmp_path / "source/Task09_Spleen", numbered(5), **dict.fromkeys(keys, "as MONAI requires"))
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "Task09_Spleen.tar", "w") as archive:
        archive.add(tmp_path / "source/Task09_Spleen", "Task09_Spleen")
    digest = hashlib.md5((root / "Task09_Spleen.tar").read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(DecathlonDataset.md5, "Task09_Spleen", digest)
    assert download_task("Task09_Spleen", root) == root / "Task09_Spleen"
    assert [case.name for case in DecathlonTask.load(root / "Task09_Spleen").cases] == numbered(5)


@pytest.mark.parametrize(
    ("error", "raised", "sentence"),
    [
        (URLError("no route to host"), UserError, "Task09_Spleen could not be downloaded .*no route to host"),
        (RuntimeError("denied.\nsecond line"), UserError, "Task09_Spleen could not be downloaded .denied.: check"),
        (tarfile.ReadError("unexpected end of data"), UserError, "unexpected end of data"),
        (Exception("Error processing URL: timed out"), UserError, "Error processing URL: timed out"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_failed_download_leaves_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    sentence: str | None,
) -> None:
    from monai.apps import DecathlonDataset

    signature = inspect.signature(DecathlonDataset)

    class Failing:
        resource = DecathlonDataset.resource

        def __init__(self, **options: Any) -> None:
            signature.bind(**options)
            make_task(Path(options["root_dir"]) / options["task"], ["a"])
            raise error

    monkeypatch.setattr("monai.apps.DecathlonDataset", Failing)
    with pytest.raises(raised, match=sentence):
        download_task("Task09_Spleen", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_unknown_task_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Task99_Heart is not a Decathlon task.*Task09_Spleen"):
        download_task("Task99_Heart", tmp_path)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is unset: no real task to split")
def test_real_task_is_split_as_its_file_says() -> None:
    folder = Path(str(DATA)) / "btcv_spleen"
    task = DecathlonTask.load(folder)
    given = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    split = task.split()
    assert (len(split.train), len(split.student), len(split.val), len(split.test)) == (12, 6, 2, 6)
    for names, key in (
        (split.train, "teacher_train"),
        (split.student, "student_train_half"),
        (split.val, "val"),
        (split.test, "test"),
    ):
        assert sorted(names) == sorted(given[key])
    assert len(task.select(split.train)) == 12
