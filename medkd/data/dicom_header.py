"""What the header of one DICOM file says: a slice of a CT, MR or PET series, another object, or a damaged file."""

from __future__ import annotations

import stat
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from medkd.errors import first_line

# By modality, which says it where a file was made anonymous down to its class.
SLICE_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
MULTI_FRAME_CLASSES = {
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
}
TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
]


@dataclass(frozen=True)
class SliceHeader:
    """One slice; what its file does not say is None.

    Attributes:
        path: the file.
        series: SeriesInstanceUID; "" where it was removed.
        series_number: SeriesNumber.
        modality: such as CT; "" where it was removed.
        instance: SOPInstanceUID; "" where it was removed.
        multi_frame: the file holds a whole volume.
        colour: it has more than one value per pixel.
        rows: height in pixels.
        columns: width in pixels.
        position: of the centre of the first pixel, 3 numbers in mm (LPS).
        orientation: direction in which columns count up and direction in which rows count up, 6 numbers (LPS).
        spacing: between rows and between columns, in mm.
        thickness: SpacingBetweenSlices, else SliceThickness, in mm.
        slope: from stored values to HU; None without one.
        intercept: from stored values to HU; None without one.
        compressed: its pixel data needs a decoder.
        needs_rescale: the stored values cannot be HU, since they cannot be negative.
    """

    path: Path
    series: str
    series_number: int | None
    modality: str
    instance: str
    multi_frame: bool
    colour: bool
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    compressed: bool
    needs_rescale: bool


@dataclass(frozen=True)
class OtherObject:
    """A DICOM file that is no slice, such as `Segmentation Storage` or a `localizer`."""

    kind: str


@dataclass(frozen=True)
class DamagedFile:
    """A file that may have been a slice; `is_dicom` where it certainly is a DICOM file."""

    reason: str
    is_dicom: bool


def read_header(path: Path) -> SliceHeader | OtherObject | DamagedFile | None:
    """Read what is needed to sort slices; None for a file that is not DICOM.

    Headers are remembered as long as their files do not change, since a folder is first searched and then read.
    """
    try:
        status = path.stat()
    except OSError as error:
        return DamagedFile(error.strerror or str(error), is_dicom=False)
    return _parse(path, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


@lru_cache(maxsize=1 << 15)
def _parse(path: Path, changed: int, size: int) -> SliceHeader | OtherObject | DamagedFile | None:
    named_so = path.suffix.lower() == ".dcm"
    if size == 0:
        return DamagedFile("it is empty", is_dicom=False)
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
        if start[128:] != b"DICM":
            return DamagedFile("it does not begin as a DICOM file", is_dicom=True) if named_so else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _header(path, dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS)))
    except OSError as error:
        return DamagedFile(error.strerror or str(error), is_dicom=named_so)
    except Exception as error:  # whatever pydicom stumbles over in a damaged file
        return DamagedFile(first_line(error), is_dicom=True)


def _header(path: Path, dataset: Dataset) -> SliceHeader | OtherObject | DamagedFile:
    meta, modality = dataset.file_meta, str(dataset.get("Modality", ""))
    kind = UID(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or SLICE_CLASSES.get(modality, ""))
    if kind not in MULTI_FRAME_CLASSES and kind not in SLICE_CLASSES.values():
        # A file that is cut off within its class may have been a slice.
        if kind != MediaStorageDirectoryStorage and "SeriesInstanceUID" not in dataset:
            return DamagedFile("its header ends early", is_dicom=True)
        return OtherObject(_one_line(kind.name) or "objects of no class")
    if "LOCALIZER" in _texts(dataset, "ImageType"):
        return OtherObject("localizer")
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns:
        return DamagedFile("its header says no size", is_dicom=True)
    slope, intercept = _numbers(dataset, "RescaleSlope", 1), _numbers(dataset, "RescaleIntercept", 1)
    thickness = _numbers(dataset, "SpacingBetweenSlices", 1) or _numbers(dataset, "SliceThickness", 1)
    number = _numbers(dataset, "SeriesNumber", 1)
    return SliceHeader(
        path=path,
        series=_one_line(str(dataset.get("SeriesInstanceUID") or "")),
        series_number=None if number is None else int(number[0]),
        modality=_one_line(modality),
        instance=str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""),
        multi_frame=kind in MULTI_FRAME_CLASSES or int(dataset.get("NumberOfFrames") or 1) > 1,
        colour=int(dataset.get("SamplesPerPixel") or 1) > 1,
        rows=int(rows),
        columns=int(columns),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        spacing=_numbers(dataset, "PixelSpacing", 2),
        thickness=None if thickness is None else abs(thickness[0]),
        slope=None if slope is None else slope[0],
        intercept=None if intercept is None else intercept[0],
        compressed=UID(meta.get("TransferSyntaxUID", "")).is_compressed,
        needs_rescale=kind == CTImageStorage and intercept is None and not dataset.get("PixelRepresentation"),
    )


def _texts(dataset: Dataset, tag: str) -> list[str]:
    value = dataset.get(tag) or []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _numbers(dataset: Dataset, tag: str, count: int) -> tuple[float, ...] | None:
    """The numbers under a tag; None where it is missing, empty, or holds another count."""
    value: Any = dataset.get(tag)
    if value is None or value == "":
        return None
    parts = [value] if isinstance(value, (int, float)) else list(value)
    return tuple(float(part) for part in parts) if len(parts) == count else None


def _one_line(text: str) -> str:
    # Sentences name it, whatever bytes a damaged file has there.
    return " ".join(text.split())
