"""A task folder of the Medical Segmentation Decathlon: its cases, and their split by volume."""

from __future__ import annotations

import filecmp
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from medkd.errors import UserError
from medkd.files import write_json

TEST_SHARE = 0.25
VAL_SHARE = 0.15


@dataclass(frozen=True)
class Case:
    """One volume of a task; `name` is the file name of the image without its suffix."""

    name: str
    image: Path
    label: Path | None

    def without_label(self) -> Case:
        """The same image, as if it had no label."""
        return replace(self, label=None)


@dataclass(frozen=True)
class Split:
    """Case names by use; `student` is the part of `train` that the student learns from."""

    train: list[str]
    student: list[str]
    val: list[str]
    test: list[str]

    def write(self, file: str | Path) -> None:
        """Write the split as a `splits.json` that gives it again, with the student's part where that is the half."""
        content: dict[str, Any] = {"unit": "volume", "teacher_train": self.train, "val": self.val, "test": self.test}
        if len(self.student) == math.ceil(len(self.train) / 2):
            content["student_train_half"] = self.student
        write_json(file, content)


@dataclass(frozen=True)
class DecathlonTask:
    """A task folder in the Decathlon layout.

    Attributes:
        folder: the folder with `dataset.json`.
        name: the task's name in `dataset.json`, else the folder's.
        labels: label value to name, background included.
        cases: the labelled cases (`training`), in the natural order of their names.
        unlabelled: the cases of `test` whose image exists and is none of `training`, in the same order.

    Reference:
        Antonelli et al. 2022, "The Medical Segmentation Decathlon", Nature Communications 13:4128.
    """

    folder: Path
    name: str
    labels: dict[int, str]
    cases: list[Case]
    unlabelled: list[Case]

    @classmethod
    def load(cls, folder: str | Path, check_files: bool = True) -> DecathlonTask:
        """Read `dataset.json` and list the cases.

        Args:
            folder: the task folder, or a file like `dataset.json` in it when the folder has several.
            check_files: require every image and label of `training` to exist.

        Raises:
            UserError: the folder or `dataset.json` is missing or not in the Decathlon layout, a case is listed twice,
                or a file is missing.
        """
        file = Path(folder)
        if file.suffix != ".json":
            if not file.is_dir():
                raise UserError(f"{file} is not a folder: give the task folder that holds dataset.json.")
            file = file / "dataset.json"
        content = _read_json(file)
        for key in ("training", "labels"):
            if key not in content:
                raise UserError(f"{file} has no '{key}': give a dataset.json in the Decathlon layout.")
        cases = _cases(content["training"], "training", file)
        if not cases:
            raise UserError(f"{file} lists no training cases: add at least one to 'training'.")
        for case in cases:
            if case.label is None:
                raise UserError(f"{file} gives no label for the training case {case.name}: add its 'label' file.")
        if check_files:
            _check_files(cases, str(file))
        labelled = {case.name: case.image for case in cases if case.image.is_file()}
        numbers = {_number(image) for image in labelled.values()}
        others = _cases(content.get("test", []), "test", file)
        return cls(
            folder=file.parent,
            name=str(content.get("name") or file.parent.resolve().name),
            labels=_labels(content["labels"], file),
            cases=cases,
            unlabelled=[
                case
                for case in others
                if case.image.is_file()
                and _number(case.image) not in numbers
                and not (case.name in labelled and filecmp.cmp(case.image, labelled[case.name], shallow=False))
            ],
        )

    @classmethod
    def of_files(
        cls, folder: str | Path, images: Sequence[str | Path], labels: Sequence[str | Path], names: dict[int, str]
    ) -> DecathlonTask:
        """A task of image files and their labels, in whatever folders they lie.

        Args:
            folder: where a ``splits.json`` is looked for, and what messages name.
            images: the images.
            labels: the label of each, in the same order.
            names: label value to name, background included.

        Raises:
            UserError: two images have the same file name, or a file is missing.
        """
        folder = Path(folder)
        entries = [
            {"image": str(Path(image).absolute()), "label": str(Path(label).absolute())}
            for image, label in zip(images, labels, strict=True)
        ]
        cases = _cases(entries, "images", folder / "dataset.json")
        _check_files(cases, "the images that were given")
        return cls(folder=folder, name=folder.resolve().name, labels=names, cases=cases, unlabelled=[])

    @property
    def foreground(self) -> dict[int, str]:
        """The labels without the background (value 0)."""
        return {value: name for value, name in self.labels.items() if value != 0}

    def select(self, names: Iterable[str]) -> list[Case]:
        """Return the labelled cases of these names, in the order of the names.

        Raises:
            UserError: a name is not among the cases.
        """
        by_name = {case.name: case for case in self.cases}
        names = list(names)
        for name in names:
            if name not in by_name:
                raise UserError(f"the task {self.folder} has no case {name}: choose among those in its dataset.json.")
        return [by_name[name] for name in names]

    def split(self, seed: int = 0, student_share: float = 0.5, file: str | Path | None = None) -> Split:
        """Split the cases by volume, so that no patient's slices are on two sides.

        A `splits.json` (keys `teacher_train`, `val`, `test` and, for the student's half, `student_train_half`) is
        obeyed; without one, 25 % test and 15 % validation are drawn. The draw depends on the case names and the seed
        alone, and a smaller student's share is contained in a larger one.

        Args:
            seed: of the draw.
            student_share: share of the training cases for the student, in (0, 1]; rounded up, at least one case.
            file: the split file; `splits.json` in the task folder when None and when it exists.

        Raises:
            UserError: the split file is invalid, names an unknown case or lists a case twice; the task has fewer than
                three cases; `seed` or `student_share` is out of range.
        """
        if not 0 < student_share <= 1:
            raise UserError(f"the student's share is {student_share}: choose one above 0 and up to 1.")
        if not 0 <= seed < 2**32:
            raise UserError(f"the seed is {seed}: choose one from 0 to {2**32 - 1}.")
        if file is None and (self.folder / "splits.json").exists():
            file = self.folder / "splits.json"
        if file is None:
            train, val, test = self._draw(seed)
            half = None
        else:
            train, val, test, half = self._read_split(Path(file))
        if half is not None and student_share == 0.5:
            student = half
        else:
            # Guarded against 0.28 * 25 = 7.000000000000001, which must give 7 cases and not 8.
            count = max(1, math.ceil(student_share * len(train) - 1e-9))
            student = _natural(_shuffled(train, seed)[:count])
        return Split(train, student, val, test)

    def without_labels(self, split: Split) -> list[Case]:
        """What a student may learn from without labels: training cases outside its share, and the unlabelled ones.

        Raises:
            UserError: there is none.
        """
        others = [name for name in split.train if name not in split.student]
        cases = [case.without_label() for case in self.select(others)] + self.unlabelled
        if not cases:
            raise UserError(
                f"{self.folder} has no volume without a label: give the student a smaller share, or list volumes under "
                "'test' of dataset.json."
            )
        return cases

    def part(self, part: str, seed: int = 0, file: str | Path | None = None) -> list[Case]:
        """The cases of one part of :meth:`split`.

        Args:
            part: train, val or test; or all, which splits nothing.
            seed: of the draw.
            file: the split file.

        Raises:
            UserError: the part is not one of these, or as for :meth:`split`.
        """
        if part == "all":
            return self.cases
        if part not in ("train", "val", "test"):
            raise UserError(f"the part {part!r} is not known: choose train, val, test or all.")
        return self.select(getattr(self.split(seed, file=file), part))

    def _draw(self, seed: int) -> tuple[list[str], list[str], list[str]]:
        if len(self.cases) < 3:
            raise UserError(
                f"the task {self.folder} has {len(self.cases)} cases: give at least 3, to train, validate and test."
            )
        names = _shuffled([case.name for case in self.cases], seed)
        test = max(1, round(TEST_SHARE * len(names)))
        val = max(1, round(VAL_SHARE * len(names)))
        return _natural(names[test + val :]), _natural(names[test : test + val]), _natural(names[:test])

    def _read_split(self, file: Path) -> tuple[list[str], list[str], list[str], list[str] | None]:
        content = _read_json(file)
        lists: dict[str, list[str]] = {}
        known = {case.name for case in self.cases}
        for key in ("teacher_train", "val", "test", "student_train_half"):
            names = content.get(key)
            if key == "student_train_half" and names is None:
                continue
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                raise UserError(f"{file} must list at least one case name under '{key}': add the list.")
            unknown = [name for name in names if name not in known]
            if unknown:
                raise UserError(
                    f"{file} names {unknown[0]} under '{key}', which is no case of {self.folder}: remove it."
                )
            lists[key] = _natural(names)
        half = lists.pop("student_train_half", None)
        twice = [name for name, count in Counter(chain.from_iterable(lists.values())).items() if count > 1]
        if twice:
            raise UserError(f"{file} lists {twice[0]} more than once: keep each case in one of train, val and test.")
        if half is not None:
            outside = [name for name in half if name not in lists["teacher_train"]]
            if outside:
                raise UserError(
                    f"{file} gives the student {outside[0]}, which is not in 'teacher_train': "
                    "choose the student's cases from the teacher's."
                )
            if len(set(half)) < len(half):
                raise UserError(f"{file} lists a case twice under 'student_train_half': keep it once.")
        return lists["teacher_train"], lists["val"], lists["test"], half


def read_labels(file: Path) -> dict[int, str]:
    """The label values and names of a ``dataset.json``."""
    return _labels(_read_json(file).get("labels"), file)


def _check_files(cases: Iterable[Case], listed_in: str) -> None:
    for case in cases:
        for path in (case.image, case.label):
            if path is not None and not path.is_file():
                raise UserError(f"{path} is missing: put the file there or remove its case from {listed_in}.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: give a folder or file of a task in the Decathlon layout.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): correct the file.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object: correct the file.")
    return content


def _labels(entry: Any, file: Path) -> dict[int, str]:
    try:
        labels = {int(value): name for value, name in sorted(entry.items(), key=lambda item: int(item[0]))}
        valid = all(isinstance(name, str) for name in labels.values())
    except (AttributeError, ValueError):
        valid = False
    if not valid or 0 not in labels or len(labels) < 2:
        raise UserError(
            f"{file} must map label values to names under 'labels', such as "
            '{"0": "background", "1": "spleen"}: correct the entry.'
        )
    if len(set(labels.values())) < len(labels):
        raise UserError(f"{file} gives two label values the same name: give each its own.")
    return labels


def _cases(entries: Any, key: str, file: Path) -> list[Case]:
    """Turn a list of `dataset.json` into cases; entries are image names or {"image": ..., "label": ...}."""
    cases: dict[str, Case] = {}
    if not isinstance(entries, list):
        raise UserError(f"{file} must hold a list under '{key}': correct the entry.")
    for entry in entries:
        pair = entry if isinstance(entry, dict) else {"image": entry}
        image, label = pair.get("image"), pair.get("label")
        if not isinstance(image, str) or not isinstance(label, (str, type(None))):
            raise UserError(f"{file} has an entry under '{key}' without an image file name: {entry!r}: correct it.")
        path = file.parent / image
        if path.name.startswith("._"):  # macOS leaves these shadows of files in archives
            continue
        name = re.sub(r"\.nii(\.gz)?$", "", path.name)
        if name in cases:
            raise UserError(f"{file} lists the case {name} twice under '{key}': remove one or rename its file.")
        cases[name] = Case(name, path, None if label is None else file.parent / label)
    return [cases[name] for name in _natural(cases)]


def _number(file: Path) -> tuple[int, int]:
    """What all links to one file share."""
    found = file.stat()
    return found.st_dev, found.st_ino


def _natural(names: Iterable[str]) -> list[str]:
    """Sort names with numbers by value: spleen_2 before spleen_10."""

    def key(name: str) -> tuple[list[str | int], str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name

    return sorted(names, key=key)


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    # RandomState, because numpy guarantees its stream for good and that of newer generators not.
    order = np.random.RandomState(seed).permutation(len(names))
    return [names[index] for index in order]
