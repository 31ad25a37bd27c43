"""DICOM series: which ones a folder holds, and one of them as a volume in HU."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medkd.data.dicom_geometry import arrange
from medkd.data.dicom_header import DamagedFile, OtherObject, SliceHeader, read_header
from medkd.data.dicom_pixels import read_pixels
from medkd.data.folders import files_below
from medkd.data.raw_image import damaged
from medkd.data.volume import Volume, checked_image, nifti_header
from medkd.errors import UserError

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Series:
    """The slices with one SeriesInstanceUID.

    Attributes:
        uid: SeriesInstanceUID; "" where it was removed, and what lies in one folder counts as a series.
        folder: that holds all files, maybe in sub-folders.
        slices: their headers, in no order.
    """

    uid: str
    folder: Path
    slices: tuple[SliceHeader, ...]

    @property
    def number(self) -> int | None:
        """SeriesNumber, by which scanners and viewers call the series of a study."""
        return self.slices[0].series_number


@dataclass
class FolderContent:
    """What DICOM files there are below a folder.

    Attributes:
        series: of CT, MR or PET slices, localizers left out.
        others: kinds of the files that are no slices, such as `Segmentation Storage`.
        damaged: files that may have been slices.
    """

    series: list[Series] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    damaged: dict[Path, DamagedFile] = field(default_factory=dict)


def find_series(folder: str | Path) -> FolderContent:
    """Sort the DICOM files below a folder into series, whatever their names; other files are passed over."""
    content = FolderContent()
    slices: dict[tuple[str, Path | None], list[SliceHeader]] = defaultdict(list)
    for path in files_below(folder):
        header = read_header(path)
        if isinstance(header, SliceHeader):
            slices[header.series, None if header.series else path.parent].append(header)
        elif isinstance(header, OtherObject):
            content.others.add(header.kind)
        elif isinstance(header, DamagedFile):
            content.damaged[path] = header
    for (uid, _), found in slices.items():
        common = Path(os.path.commonpath([one.path.parent for one in found]))
        content.series.append(Series(uid, common, tuple(found)))
    content.series.sort(key=lambda one: (one.folder, one.number is None, one.number, one.uid))
    return content


def read_series(folder: str | Path, uid: str | None = None) -> Volume:
    """Read one series as a volume.

    Slices are ordered by their position along the normal, not by number or file name. PixelPaddingValue is a value
    like others.

    Args:
        folder: that holds the files of the series, maybe in sub-folders and among other files.
        uid: SeriesInstanceUID, needed where the folder holds several series.

    Returns:
        The volume `(columns, rows, slices)`, in int16 where RescaleSlope and RescaleIntercept are whole numbers and
        the values fit, else in float32; `files` are those of the slices.

    Raises:
        UserError: there is no such series, or more than one; a file is damaged, or compressed in a way that cannot be
            decoded; the slices are not a stack of equal and evenly spaced grey images.
    """
    folder = Path(folder)
    content = find_series(folder)
    series = _choose(content, folder, uid)
    homes = {one.path.parent for one in series.slices}
    for path, damage in content.damaged.items():
        if path.parent in homes:
            raise damaged(path, damage.reason)
    where = f"{folder} (series {series.uid})" if len(content.series) > 1 else str(folder)
    slices, affine = arrange(series.slices, where, folder)
    array = _read_voxels(slices)
    files = tuple(one.path for one in slices)
    header = nifti_header(array.shape, affine)
    return checked_image(array, affine, header, folder, files, series.slices[0].modality)


def _choose(content: FolderContent, folder: Path, uid: str | None) -> Series:
    found = [one for one in content.series if uid is None or one.uid == uid]
    if len(found) > 1 and uid is not None:  # those without an UID differ by their folder
        found = [one for one in found if one.folder == folder]
    if len(found) == 1:
        return found[0]
    if len(content.series) > 1:
        listed = ", ".join(f"{one.uid or one.folder} of {len(one.slices)} slices" for one in content.series[:5])
        more = ", ..." if len(content.series) > 5 else ""
        raise UserError(f"{folder} holds {len(content.series)} DICOM series ({listed}{more}): choose one of them.")
    if content.series:
        raise UserError(f"{folder} holds no DICOM series {uid}: it holds {content.series[0].uid}.")
    for path, damage in content.damaged.items():
        if damage.is_dicom:
            raise damaged(path, damage.reason)
    seen = f" (it holds {', '.join(sorted(content.others))})" if content.others else ""
    raise UserError(f"{folder} holds no DICOM series of CT, MR or PET slices{seen}: give the folder of the scan.")


def _read_voxels(slices: list[SliceHeader]) -> np.ndarray:
    """The slices in HU, `(columns, rows, slices)`."""
    voxels = np.empty((0, 0, 0))
    scales = [_rescale(one) for one in slices]
    for index, (pixels, (slope, intercept)) in enumerate(zip(read_pixels(slices), scales, strict=True)):
        if index == 0:  # allocated only now that a first slice could be decoded
            whole = all(number.is_integer() for scale in scales for number in scale)
            voxels = np.empty((len(slices), *pixels.shape), np.int16 if whole else np.float32)
        ends = [float(end) * slope + intercept for end in (pixels.min(), pixels.max())]
        if voxels.dtype == np.int16 and not (min(ends) >= INT16.min and max(ends) <= INT16.max):
            voxels = voxels.astype(np.float32)
        with np.errstate(over="ignore"):  # what does not fit float32 becomes inf, which checked_image refuses
            if slope != 1:
                pixels = np.multiply(pixels, slope, dtype=np.float64)
            # Summed in float64, which is exact here, so that neither unsigned nor short pixels wrap around.
            np.add(pixels, intercept, out=voxels[index], dtype=np.float64, casting="unsafe")
    return voxels.transpose(2, 1, 0)


def _rescale(one: SliceHeader) -> tuple[float, float]:
    """Slope and intercept to HU; 1 and 0 where the slice has none."""
    slope = 1.0 if one.slope is None else one.slope
    intercept = 0.0 if one.intercept is None else one.intercept
    if one.needs_rescale:
        raise UserError(
            f"{one.path} is a CT slice without RescaleIntercept, so its values are not in HU: export the series again "
            "with it."
        )
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise damaged(one.path, f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}")
    return slope, intercept
