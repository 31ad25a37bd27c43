"""Opening the data of a recipe that is named file by file; download is tested with the Decathlon's folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medkd.data import open_task
from medkd.errors import UserError


def files(folder: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Images and labels in one folder, as the Model Zoo's tests name them; empty, since opening only looks for them."""
    folder.mkdir(exist_ok=True)
    images, labels = ([str(folder / f"{part}_{name}.nii.gz") for name in names] for part in ("image", "label"))
    for path in images + labels:
        Path(path).touch()
    return images, labels


def test_files_named_one_by_one_need_no_dataset_json(tmp_path: Path) -> None:
    images, labels = files(tmp_path / "scans", [str(number) for number in (10, 2, 1)])
    task = open_task(tmp_path / "scans", images=images, labels=labels)
    assert [(case.name, case.image.name, case.label.name) for case in task.cases] == [
        (f"image_{n}", f"image_{n}.nii.gz", f"label_{n}.nii.gz") for n in (1, 2, 10)
    ]
    assert task.labels == {0: "background", 1: "spleen"}
    split = task.split()
    assert sorted(split.train + split.val + split.test) == ["image_1", "image_10", "image_2"]


def test_dataset_json_still_says_what_the_labels_of_named_files_mean(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    content = {"labels": {"0": "background", "3": "liver"}, "training": []}
    (tmp_path / "task" / "dataset.json").write_text(json.dumps(content))
    images, labels = files(tmp_path / "scans", ["x"])
    assert open_task(tmp_path / "task", images=images, labels=labels).labels == {0: "background", 3: "liver"}


@pytest.mark.parametrize("given", ["images", "labels", "fewer labels", "none", "text"])
def test_images_and_labels_must_pair_up(given: str, tmp_path: Path) -> None:
    images, labels = files(tmp_path / "scans", ["1", "2", "3"])
    arguments: dict[str, Any] = {
        "images": {"images": images},
        "labels": {"labels": labels},
        "fewer labels": {"images": images, "labels": labels[:2]},
        "none": {"images": [], "labels": []},
        "text": {"images": images[0], "labels": labels[0]},
    }[given]
    with pytest.raises(UserError, match="give a list" if given == "text" else "do not pair up"):
        open_task(tmp_path / "scans", **arguments)


def test_a_named_file_that_is_missing_is_named(tmp_path: Path) -> None:
    images, labels = files(tmp_path / "scans", ["1", "2", "3"])
    Path(labels[1]).unlink()
    with pytest.raises(UserError, match=r"label_2.nii.gz is missing"):
        open_task(tmp_path / "scans", images=images, labels=labels)
