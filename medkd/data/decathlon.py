"""A task folder of the Medical Segmentation Decathlon and its cases."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medkd.data.natural_order import natural_order
from medkd.data.split import Split, read_object
from medkd.errors import UserError


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
        content = read_object(file)
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
        names = [case.name for case in self.cases]
        if file is not None:
            return Split.read(Path(file), names, self.folder, seed, student_share)
        if len(names) < 3:
            raise UserError(
                f"the task {self.folder} has {len(names)} cases: give at least 3, to train, validate and test."
            )
        return Split.draw(names, seed, student_share)

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


def read_labels(file: Path) -> dict[int, str]:
    """The label values and names of a ``dataset.json``."""
    return _labels(read_object(file).get("labels"), file)


def _check_files(cases: Iterable[Case], listed_in: str) -> None:
    for case in cases:
        for path in (case.image, case.label):
            if path is not None and not path.is_file():
                raise UserError(f"{path} is missing: put the file there or remove its case from {listed_in}.")


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
    return [cases[name] for name in natural_order(cases)]


def _number(file: Path) -> tuple[int, int]:
    """What all links to one file share."""
    found = file.stat()
    return found.st_dev, found.st_ino
