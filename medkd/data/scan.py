"""A scan in, whatever its format."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from medkd.data.dicom import read_series
from medkd.data.dicom_header import DamagedFile, read_header
from medkd.data.metaimage import read_metaimage
from medkd.data.nifti import read_image
from medkd.data.nrrd import MAGIC, read_nrrd
from medkd.data.raw_image import damaged, unreadable
from medkd.data.volume import Volume
from medkd.errors import UserError

START = 352  # bytes that tell every format
# Whose sentence says what is wrong with a file that begins like none.
BY_SUFFIX: dict[str, Callable[[Path], Volume]] = {
    ".nii": read_image,
    ".gz": read_image,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".mha": read_metaimage,
    ".mhd": read_metaimage,
}


def read_scan(path: str | Path, series: str | None = None) -> Volume:
    """Read a scan and check that it can be worked with.

    Args:
        path: a NIfTI (`.nii.gz`, `.nii`), NRRD (`.nrrd`, `.nhdr`) or MetaImage (`.mha`, `.mhd`) file, told apart by
            content; or a folder that holds a DICOM series.
        series: SeriesInstanceUID, where the folder holds several.

    Returns:
        The volume, in HU for CT, as stored.

    Raises:
        UserError: the file or folder is missing, damaged, of another format or not one 3-D volume of grey values.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return read_series(path, series)
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is neither a file nor a folder: give the file or folder of a scan.")
        with path.open("rb") as stream:
            start = stream.read(START)
    except OSError as error:
        raise unreadable(path, error) from error
    read = _reader(start) or BY_SUFFIX.get(path.suffix.lower())
    if read is not None:
        return read(path)
    if start[128:132] == b"DICM" or path.suffix.lower() == ".dcm":
        raise _single_dicom(path)
    raise UserError(f"{path} is no NIfTI, NRRD or MetaImage file and no DICOM folder: convert it to .nii.gz first.")


def _reader(start: bytes) -> Callable[[Path], Volume] | None:
    """The reader of the format in which a file begins."""
    if start.startswith(b"\x1f\x8b") or start[344:347] == b"n+1" or start[4:7] == b"n+2":
        return read_image
    if start.startswith(MAGIC):
        return read_nrrd
    if start.lstrip().startswith((b"ObjectType", b"NDims")):
        return read_metaimage
    return None


def _single_dicom(path: Path) -> UserError:
    header = read_header(path)
    if isinstance(header, DamagedFile):
        return damaged(path, header.reason)
    return UserError(f"{path} is a single DICOM file: give the folder that holds its series.")
