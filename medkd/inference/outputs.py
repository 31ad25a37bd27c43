"""The files of one segmented scan: written where nobody looks, then put in their places all together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medkd.errors import UserError
from medkd.files import unwritable

if TYPE_CHECKING:
    from medkd.inference.segmentation import Segmentation
    from medkd.inference.segmenter import Segmenter

SUFFIXES = {"mask": "_seg.nii.gz", "preview": "_preview.png", "dicom_seg": "_seg.dcm"}

_WORKSPACE = re.compile(r"\.writing-[a-z0-9_]{8}-([0-9a-f]{24})")


def output_names(name: str) -> dict[str, str]:
    """Kind of an output to its path in the folder of the cohort.

    Raises:
        UserError: it would not be in that folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UserError(f"{name!r} is no name for the outputs of a scan: give a relative path without '..'.")
    return {kind: name + suffix for kind, suffix in SUFFIXES.items()}


def new_workspace(out: Path, name: str) -> Path:
    """A new folder in ``out`` in which the outputs of one scan are written before they get to their places.

    Raises:
        UserError: ``out`` cannot be written to.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=".writing-", suffix=f"-{_tag(name)}", dir=out))
    except OSError as error:
        raise unwritable(out, error) from error


def remove_workspaces(out: Path, names: Iterable[str]) -> None:
    """Remove what killed processes have left of these scans, and of no others."""
    tags = {_tag(name) for name in names}
    for folder in out.iterdir():
        match = _WORKSPACE.fullmatch(folder.name)
        if match and match[1] in tags:
            shutil.rmtree(folder, ignore_errors=True)


def write_outputs(
    segmenter: Segmenter, result: Segmentation, name: str, workspace: Path, *, preview: bool, dicom_seg: bool
) -> tuple[tuple[str, ...], str | None]:
    """Write all files of one scan.

    Args:
        segmenter: that made the result.
        result: mask and scan.
        name: of the scan in its cohort.
        workspace: see :func:`new_workspace`.
        preview: whether to draw a picture.
        dicom_seg: whether to write DICOM SEG where the scan is a DICOM series.

    Returns:
        The kinds that were written, see :data:`SUFFIXES`, and why there is no DICOM SEG where there should be one: a
        mask counts without it, since series that lack what the standard asks for are common.

    Raises:
        UserError: another could not be written.
    """
    files = {kind: workspace / PurePosixPath(path).name for kind, path in output_names(name).items()}
    labels = segmenter.model.labels
    written, note = ["mask"], None
    result.save(files["mask"])
    if preview:
        from medkd.inference.preview import write_preview

        write_preview(result.scan, result.mask, labels, segmenter.model.preprocessing.window, files["preview"])
        written.append("preview")
    if dicom_seg and result.scan.files:
        from medkd.inference.dicom_seg import write_dicom_seg

        try:
            if write_dicom_seg(result.mask, result.scan, labels, files["dicom_seg"], result.measurements["model"]):
                written.append("dicom_seg")
        except UserError as error:
            note = f"no DICOM SEG: {error}"
    return tuple(written), note


@contextlib.contextmanager
def publish(workspace: Path, written: Iterable[str], name: str, out: Path) -> Iterator[None]:
    """Put the outputs of a scan in their places around a block that notes it as done.

    The mask comes after the block, and one of an earlier run goes before: a mask that is there is noted, and noted as
    what it is.

    Args:
        workspace: where they are; it goes away.
        written: their kinds.
        name: of the scan in its cohort.
        out: folder of the cohort.

    Raises:
        OSError: there is no room, or something is in the way.
    """
    places = {kind: out / path for kind, path in output_names(name).items()}
    mask = workspace / places["mask"].name
    try:
        places["mask"].parent.mkdir(parents=True, exist_ok=True)
        with mask.open("rb+") as stream:  # Windows syncs no file that is open for reading only.
            os.fsync(stream.fileno())
        withdraw(name, out)
        for kind in written:
            if kind != "mask":
                (workspace / places[kind].name).replace(places[kind])
        yield
        mask.replace(places["mask"])
    except BaseException:
        withdraw(name, out)
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def withdraw(name: str, out: Path) -> None:
    """Remove the outputs of a scan, its mask first."""
    for path in output_names(name).values():
        with contextlib.suppress(OSError):  # Nothing is there, or no file of ours.
            (out / path).unlink()


def _tag(name: str) -> str:
    # A name may hold what no name of a folder can, and be longer.
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
