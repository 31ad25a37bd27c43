from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from medkd.data import Split
from medkd.errors import UserError

GIVEN: dict[str, Any] = {
    "teacher_train": ["spleen_10", "spleen_3", "spleen_4", "spleen_1"],
    "student_train_half": ["spleen_4", "spleen_1"],
    "val": ["spleen_7"],
    "test": ["spleen_8"],
}


def numbered(count: int) -> list[str]:
    return [f"spleen_{number}" for number in range(1, count + 1)]


def read(folder: Path, content: dict[str, Any], share: float = 0.5) -> Split:
    file = folder / "splits.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return Split.read(file, numbered(10), folder, seed=0, student_share=share)


@pytest.mark.parametrize(
    ("cases", "train", "val", "test"),
    [(3, 1, 1, 1), (4, 2, 1, 1), (7, 4, 1, 2), (17, 10, 3, 4), (20, 12, 3, 5), (100, 60, 15, 25)],
)
def test_a_drawn_split_covers_all_cases_once(cases: int, train: int, val: int, test: int) -> None:
    split = Split.draw(numbered(cases), seed=0, student_share=0.5)
    assert (len(split.train), len(split.val), len(split.test)) == (train, val, test)
    assert sorted(split.train + split.val + split.test) == sorted(numbered(cases))
    assert set(split.student) <= set(split.train)


@pytest.mark.parametrize(
    ("cases", "train", "share", "count"),
    [
        (17, 10, 1e-6, 1),
        (17, 10, 0.1, 1),
        (17, 10, 0.11, 2),
        (17, 10, 0.25, 3),
        (17, 10, 0.5, 5),
        (17, 10, 0.71, 8),
        (17, 10, 1, 10),
        (41, 25, 0.28, 7),
    ],
)
def test_the_share_of_the_student_is_rounded_up(cases: int, train: int, share: float, count: int) -> None:
    split = Split.draw(numbered(cases), seed=0, student_share=share)
    assert len(split.train) == train
    assert len(split.student) == len(set(split.student)) == count
    assert set(split.student) <= set(split.train)


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    shares = [set(Split.draw(numbered(40), seed=1, student_share=share).student) for share in (0.1, 0.3, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(shares))


def test_a_file_gives_the_half_and_no_other_share(tmp_path: Path) -> None:
    train, half = ["spleen_1", "spleen_3", "spleen_4", "spleen_10"], ["spleen_1", "spleen_4"]
    assert read(tmp_path, GIVEN) == Split(train=train, student=half, val=["spleen_7"], test=["spleen_8"])
    assert len(read(tmp_path, GIVEN, share=0.75).student) == 3
    assert len(read(tmp_path, GIVEN | {"student_train_half": None}).student) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test": ["spleen_99"]}, "names spleen_99 under 'test'"),
        ({"student_train_half": ["spleen_99"]}, "names spleen_99 under 'student_train_half'"),
        ({"test": ["spleen_7"]}, "lists spleen_7 more than once"),
        ({"val": ["spleen_3"]}, "lists spleen_3 more than once"),
        ({"test": ["spleen_8", "spleen_8"]}, "lists spleen_8 more than once"),
        ({"student_train_half": ["spleen_8"]}, "gives the student spleen_8"),
        ({"student_train_half": ["spleen_1", "spleen_1"]}, "lists a case twice under 'student_train_half'"),
        ({"val": []}, "at least one case name under 'val'"),
        ({"val": None}, "at least one case name under 'val'"),
        ({"teacher_train": [1]}, "at least one case name under 'teacher_train'"),
        ({"test": "spleen_8"}, "at least one case name under 'test'"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"splits.json .*{sentence}"):
        read(tmp_path, GIVEN | changes)


def test_an_unknown_case_is_told_with_the_folder_it_is_not_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no case of {re.escape(str(tmp_path))}: remove it"):
        read(tmp_path, GIVEN | {"test": ["spleen_99"]})


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_written_split_is_read_as_it_was(tmp_path: Path, share: float) -> None:
    split = Split.draw(numbered(10), seed=3, student_share=share)
    split.write(tmp_path / "splits.json")
    assert Split.read(tmp_path / "splits.json", numbered(10), tmp_path, seed=3, student_share=share) == split
