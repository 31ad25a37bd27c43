"""Which cases of a task train, validate and test: drawn, or read from a file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.natural_order import natural_order
from medkd.errors import UserError
from medkd.files import write_json

TEST_SHARE = 0.25
VAL_SHARE = 0.15


@dataclass(frozen=True)
class Split:
    """Case names by use; `student` is the part of `train` that the student learns from."""

    train: list[str]
    student: list[str]
    val: list[str]
    test: list[str]

    @classmethod
    def draw(cls, names: Sequence[str], seed: int, student_share: float) -> Split:
        """Draw 25 % of at least three cases to test and 15 % to validate; the rest is for training."""
        shuffled = _shuffled(names, seed)
        test = max(1, round(TEST_SHARE * len(shuffled)))
        val = max(1, round(VAL_SHARE * len(shuffled)))
        train = natural_order(shuffled[test + val :])
        return cls(
            train=train,
            student=_students(train, seed, student_share),
            val=natural_order(shuffled[test : test + val]),
            test=natural_order(shuffled[:test]),
        )

    @classmethod
    def read(cls, file: Path, known: Collection[str], task: Path, seed: int, student_share: float) -> Split:
        """Read a `splits.json`; what the student learns from is drawn unless the file gives its half.

        Args:
            file: the split file.
            known: the names of the task's cases.
            task: its folder, which messages name.
            seed: of the student's draw.
            student_share: share of the training cases for the student, in (0, 1].

        Raises:
            UserError: the file is no JSON, names an unknown case or lists one twice.
        """
        content = read_object(file)
        lists: dict[str, list[str]] = {}
        for key in ("teacher_train", "val", "test", "student_train_half"):
            names = content.get(key)
            if key == "student_train_half" and names is None:
                continue
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                raise UserError(f"{file} must list at least one case name under '{key}': add the list.")
            unknown = [name for name in names if name not in known]
            if unknown:
                raise UserError(f"{file} names {unknown[0]} under '{key}', which is no case of {task}: remove it.")
            lists[key] = natural_order(names)
        half = lists.pop("student_train_half", None)
        twice = [name for name, count in Counter(chain.from_iterable(lists.values())).items() if count > 1]
        if twice:
            raise UserError(f"{file} lists {twice[0]} more than once: keep each case in one of train, val and test.")
        train = lists["teacher_train"]
        if half is not None:
            _check_half(half, train, file)
        student = half if half is not None and student_share == 0.5 else _students(train, seed, student_share)
        return cls(train, student, lists["val"], lists["test"])

    def write(self, file: str | Path) -> None:
        """Write the split as a `splits.json` that gives it again, with the student's part where that is the half."""
        content: dict[str, Any] = {"unit": "volume", "teacher_train": self.train, "val": self.val, "test": self.test}
        if len(self.student) == math.ceil(len(self.train) / 2):
            content["student_train_half"] = self.student
        write_json(file, content)


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a task folder.

    Raises:
        UserError: the file is missing, or holds none.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: give a folder or file of a task in the Decathlon layout.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): correct the file.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object: correct the file.")
    return content


def _check_half(half: list[str], train: list[str], file: Path) -> None:
    outside = [name for name in half if name not in train]
    if outside:
        raise UserError(
            f"{file} gives the student {outside[0]}, which is not in 'teacher_train': "
            "choose the student's cases from the teacher's."
        )
    if len(set(half)) < len(half):
        raise UserError(f"{file} lists a case twice under 'student_train_half': keep it once.")


def _students(train: list[str], seed: int, share: float) -> list[str]:
    """A share of the training cases, rounded up; a smaller one is part of a larger one."""
    # Guarded against 0.28 * 25 = 7.000000000000001, which must give 7 cases and not 8.
    count = max(1, math.ceil(share * len(train) - 1e-9))
    return natural_order(_shuffled(train, seed)[:count])


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    # RandomState, because numpy guarantees its stream for good and that of newer generators not.
    order = np.random.RandomState(seed).permutation(len(names))
    return [names[index] for index in order]
