"""The scans to segment: those in files, folders of every usual layout, and lists."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medkd.data.dicom import find_series
from medkd.data.folders import files_below
from medkd.errors import UserError

SUFFIX = re.compile(r"\.(nii\.gz|nii|nrrd|nhdr|mha|mhd)$", re.IGNORECASE)
OUTPUT = re.compile(r"[._]seg$")
BIDS_MASK = re.compile(r"_(mask|seg|dseg|probseg)$")
BIDS_FOLDERS = ("anat", "ct")
MASK_FOLDERS = {"labelsTr", "labelsTs", "segmentations"}


@dataclass(frozen=True)
class Scan:
    """A scan to segment, as yet unread.

    Attributes:
        name: unique among the scans of a cohort, a relative POSIX path without suffix, after which results are named.
        path: the file, or the folder of a DICOM series.
        series: SeriesInstanceUID of a DICOM series, else None.
        files: of a DICOM series, in no order.
    """

    name: str
    path: Path
    series: str | None = None
    files: tuple[Path, ...] = field(default=(), compare=False, repr=False)


def find_scans(inputs: Sequence[str | Path]) -> list[Scan]:
    """List the scans that some inputs stand for.

    Args:
        inputs: each one of

            - a scan file (NIfTI, NRRD, MetaImage), named without its suffix;
            - a folder of one DICOM series, named like the folder;
            - a folder tree with image files and DICOM series, named by their paths in it, and by series number where
              several series lie in one folder. Images named `*_seg.nii.gz`, as the results of medkd are, or alike in
              another format are left out; so are hidden files, links to a folder above, and what lies in folders
              of masks (`labelsTr`, `labelsTs`, `segmentations`);
            - a task folder of the Decathlon (`dataset.json`): its `imagesTs`, or `imagesTr` where that holds none,
              named by their paths in there;
            - a BIDS folder (`dataset_description.json`): the images under `sub-*/[ses-*/](anat|ct)`;
            - a list, `.txt`, of any of the above but lists, one path a line, relative to the list; blank lines and
              those that begin with `#` are skipped. Its scans are named by these paths.

            Of several inputs, the name of a folder goes before those of the scans in it; files of one name are named
            by their paths below the folder that they have in common.

    Returns:
        The scans, in the order of the inputs and by name within each. A damaged file is among them, as is a folder
        without a scan beside inputs with some, so that it is told when it is read, and the others are done.

    Raises:
        UserError: an input does not exist, no input holds a scan, or two scans would have the same name.
    """
    entries = [entry for each in inputs for entry in _expand(Path(each))]
    if len(entries) > 1:
        entries = [(path, name or (path.resolve().name if path.is_dir() else "")) for path, name in entries]
    found = [_of_folder(path, name) if path.is_dir() else [_of_file(path, name)] for path, name in entries]
    if not any(found):
        listed = ", ".join(str(each) for each in inputs[:5]) + (", ..." if len(inputs) > 5 else "")
        raise UserError(
            f"{listed or 'an empty list of inputs'} holds no scan: give NIfTI, NRRD or MetaImage files, or folders of "
            "DICOM series."
        )
    listed_scans = [
        scan
        for (path, name), those in zip(entries, found, strict=True)
        for scan in sorted(those, key=lambda scan: scan.name) or [Scan(name or path.resolve().name, path)]
    ]
    scans: dict[str, Scan] = {}
    for scan in _with_folders(listed_scans):
        other = scans.setdefault(scan.name, scan)
        if other is not scan:
            raise UserError(
                f"{other.path} and {scan.path} would both be named {scan.name!r}: rename one, or segment them into two "
                "output folders."
            )
    return list(scans.values())


def _with_folders(scans: list[Scan]) -> list[Scan]:
    """The scans, those that share a name named by their paths below the folder that all of these are in."""
    count = Counter(scan.name for scan in scans)
    alike = [scan.path.absolute() for scan in scans if count[scan.name] > 1]
    if not alike:
        return scans
    top = Path(os.path.commonpath([path.parent for path in alike]))
    return [
        replace(scan, name=SUFFIX.sub("", scan.path.absolute().relative_to(top).as_posix()))
        if count[scan.name] > 1 and scan.series is None
        else scan
        for scan in scans
    ]


def _expand(path: Path) -> list[tuple[Path, str]]:
    """An input, or those in a list, each with the name that a list gives it, else ""."""
    if not _exists(path):
        raise UserError(f"{path} does not exist: check the path.")
    if path.suffix.lower() != ".txt" or path.is_dir():
        return [(path, "")]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list ({error}): give a text file with one path a line.") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        entry = Path(text)
        if not _exists(path.parent / entry):
            raise UserError(f"{path} lists {text!r} in line {number}, which does not exist: correct the path.")
        inside = not entry.is_absolute() and ".." not in entry.parts and entry.parts
        entries.append((path.parent / entry, entry.as_posix() if inside else ""))
    return entries


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - unlike Path.exists, it does not raise in a locked folder


def _of_file(path: Path, name: str) -> Scan:
    return Scan(SUFFIX.sub("", name or path.name), path)


def _of_folder(folder: Path, name: str) -> list[Scan]:
    """The scans in a folder; `name` goes before theirs."""
    if _exists(folder / "dataset.json"):
        for images in (folder / "imagesTs", folder / "imagesTr"):
            if scans := _images(files_below(images), images, name):
                return scans
    if _exists(folder / "dataset_description.json"):
        subjects = sorted(folder.glob("sub-*/"))
        places = [place for subject in subjects for place in (subject, *sorted(subject.glob("ses-*/")))]
        files = [file for place in places for part in BIDS_FOLDERS for file in files_below(place / part)]
        if scans := _images((file for file in files if not BIDS_MASK.search(SUFFIX.sub("", file.name))), folder, name):
            return scans
    return _images(files_below(folder), folder, name) + _series(folder, name)


def _images(files: Iterable[Path], folder: Path, name: str) -> list[Scan]:
    """The image files among some, but for results."""
    scans = [_of_file(file, _below(file, folder, name)) for file in files if SUFFIX.search(file.name)]
    return [
        scan
        for scan in scans
        if not OUTPUT.search(scan.name) and not MASK_FOLDERS & set(scan.path.relative_to(folder).parts)
    ]


def _series(folder: Path, name: str) -> list[Scan]:
    """The DICOM series, and of each folder that holds damaged files and no series, the first such file."""
    content = find_series(folder)
    scans = []
    per_folder = Counter(series.folder for series in content.series)
    per_number = Counter((series.folder, series.number) for series in content.series)
    seen: Counter[tuple[Path, int | None]] = Counter()
    for series in content.series:
        title = _below(series.folder, folder, name)
        if per_folder[series.folder] > 1:
            key = series.folder, series.number
            seen[key] += 1
            title += "_series" + ("" if series.number is None else str(series.number))
            title += f"-{seen[key]}" if per_number[key] > 1 else ""
        files = tuple(sorted(slice.path for slice in series.slices))
        scans.append(Scan(title, series.folder, series.uid, files))
    told = {slice.path.parent for series in content.series for slice in series.slices}
    for path, damage in content.damaged.items():
        if damage.is_dicom and path.parent not in told:
            told.add(path.parent)
            scans.append(Scan(_below(path.parent, folder, name), path))
    return scans


def _below(path: Path, folder: Path, name: str) -> str:
    """The name of a path in a folder that itself has a name, or none."""
    relative = path.relative_to(folder)
    return (Path(name) / relative).as_posix() if name or relative.parts else folder.resolve().name
