"""NIfTI volumes in, checked: whatever is wrong with a file is said in one sentence, before any computing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from io import BufferedIOBase, BytesIO
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from medkd.data.volume import Volume, check_affine, check_shape, checked_image, format_shape
from medkd.errors import UserError, first_line

GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = 352  # of NIfTI-1 with the flag of its extensions; NIfTI-2 has more
LARGEST_HEADER = 1 << 26
LARGEST_RATIO = 1032  # of what DEFLATE can compress
CHUNK = 1 << 20
UNITS_BESIDE_MM = {1: "metres", 3: "micrometres"}  # of xyzt_units; those that say none have mm
# Image and label often come from different writers; their affines then differ by float32 rounding.
AFFINE_TOLERANCE = 1e-3
# Labels stored with a NIfTI scale factor come back as 0.99999994 instead of 1.
INTEGER_TOLERANCE = 1e-3


def read_image(path: str | Path) -> Volume:
    """Read a 3-D NIfTI image and check that it can be worked with.

    Args:
        path: a `.nii.gz` or `.nii` file; compression is told from the content.

    Returns:
        The volume, with the header's scaling applied (HU for CT).

    Raises:
        UserError: the file is missing, damaged or no NIfTI; it is not one 3-D volume of numbers; its affine cannot be
            inverted; it holds NaN or infinite values, or one value only.
    """
    path = Path(path)
    header, stored = _read(path)
    array = _scaled(stored, header)
    if array.dtype.kind == "f" or array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # what does not fit float32 becomes inf and is refused
            array = array.astype(np.float32, copy=False)
    return checked_image(array, header.get_best_affine(), header, path)


def read_label(path: str | Path) -> Volume:
    """Read a 3-D NIfTI label map; float files are accepted when they hold whole numbers.

    Args:
        path: a `.nii.gz` or `.nii` file.

    Returns:
        The volume, `array` in uint8 where 0..255 holds all values, else in int64.

    Raises:
        UserError: as for `read_image` (a constant label is fine: an organ may be absent), or a value is not whole.
    """
    path = Path(path)
    header, stored = _read(path)
    array = _scaled(stored, header)
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        # Written so that NaN counts as not whole; inf - inf is NaN as well.
        with np.errstate(invalid="ignore"):
            broken = ~(np.abs(array - rounded) <= INTEGER_TOLERANCE)
        if broken.any():
            raise UserError(
                f"{path} holds {array[broken][0]:g}, which is no label value: give the label map in whole numbers, "
                "resampled by nearest neighbour if it was resampled."
            )
        array = rounded
    fits_uint8 = array.min() >= 0 and array.max() <= 255
    array = array.astype(np.uint8 if fits_uint8 else np.int64, copy=False)
    return Volume(array, header.get_best_affine(), header, path)


def check_pair(image: Volume, label: Volume, label_values: Iterable[int]) -> None:
    """Check that a label belongs to an image: same grid, declared values only.

    Args:
        image: the image.
        label: its label.
        label_values: the values that may occur, background included.

    Raises:
        UserError: shape or affine differ (by more than 1e-3 in any entry), or a value is not declared.
    """
    if image.array.shape != label.array.shape:
        raise UserError(
            f"{label.path} is {format_shape(label.array.shape)} but its image {image.path} is "
            f"{format_shape(image.array.shape)}: resample the label to the grid of the image."
        )
    difference = float(np.abs(image.affine - label.affine).max())
    if difference > AFFINE_TOLERANCE:
        raise UserError(
            f"{label.path} lies elsewhere in space than its image {image.path} (affines differ by up to "
            f"{difference:.4g}): resample the label to the grid of the image."
        )
    declared = sorted(set(label_values))
    unknown = [value for value in distinct_values(label.array) if value not in declared]
    if unknown:
        raise UserError(
            f"{label.path} holds the undeclared label values {', '.join(map(str, unknown))} (declared are "
            f"{', '.join(map(str, declared))}): declare them under 'labels' in dataset.json or correct the file."
        )


def distinct_values(label: np.ndarray) -> dict[int, int]:
    """Count the voxels of every value of a label.

    Args:
        label: integer array of any shape.

    Returns:
        Number of voxels by value, in rising order of the values that occur.
    """
    if label.dtype == np.uint8:  # counting beats the sort of np.unique four times over
        counts = np.bincount(label.ravel(order="K"), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _read(path: Path) -> tuple[Nifti1Header, np.ndarray]:
    """The header and the voxels as stored, in native byte order, since PyTorch takes no other."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            with igzip.IGzipFile(fileobj=raw) if compressed else nullcontext(raw) as stream:
                header, offset = _read_header(stream, path)
                shape, dtype = header.get_data_shape(), header.get_data_dtype()
                size = math.prod(shape) * dtype.itemsize
                length = path.stat().st_size * (LARGEST_RATIO if compressed else 1)
                if length < offset + size:  # asked before reading allocates whatever a damaged header says
                    raise _damaged(path, f"{length} of {offset + size} bytes")
                content = _read_voxels(stream, size, path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: check the path, or put the file there.") from error
    except (EOFError, isal_zlib.IsalError, igzip.BadGzipFile) as error:  # type: ignore[misc]
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a readable NIfTI file.") from error
    stored = content.view(dtype).reshape(shape, order="F")
    return header, stored.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: BufferedIOBase, path: Path) -> tuple[Nifti1Header, int]:
    """The checked header and where the voxels begin; the stream stands there."""
    block = stream.read(HEADER_BYTES)
    if not block:
        raise _damaged(path, "it is empty")
    if block[344:347] == b"n+1":
        kind: type[Nifti1Header] = Nifti1Header
    elif block[4:7] == b"n+2":
        kind = Nifti2Header
    else:
        raise UserError(f"{path} is not a NIfTI file: convert it to .nii.gz first.")
    block += stream.read(max(0, kind.sizeof_hdr + 4 - len(block)))
    try:
        as_stored = kind(block[: kind.sizeof_hdr], check=False)
        offset = as_stored.get_data_offset()
        if offset > LARGEST_HEADER:
            raise _damaged(path, f"its voxels begin at byte {offset:,}")
        block += stream.read(max(0, offset - len(block)))
        header = kind.from_fileobj(BytesIO(block))
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        affine = header.get_best_affine()
        header.get_slope_inter()
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    check_shape(shape, path)
    if dtype.kind not in "iuf":
        raise UserError(f"{path} holds {_type_name(dtype)} voxels: give one number per voxel, a grey image or a label.")
    check_affine(affine, path)
    if unit := UNITS_BESIDE_MM.get(int(header["xyzt_units"]) % 8):
        raise UserError(f"{path} gives its voxel sizes in {unit}: convert them to mm.")
    if not (header["sform_code"] or header["qform_code"]) and (as_stored["pixdim"][1:4] == 0).any():
        raise UserError(f"{path} has a voxel size of 0, so no volume can be told: correct its pixdim.")
    if len(block) > offset:  # Only a header that lies about its offset: the voxels cannot begin inside it.
        raise _damaged(path, f"its voxels begin at byte {offset}")
    return header, offset


def _read_voxels(stream: BufferedIOBase, size: int, path: Path) -> np.ndarray:
    """The next bytes, and a look at the rest, since the checksum of a compressed file stands at its end."""
    try:
        content = np.empty(size, np.uint8)
    except MemoryError as error:
        raise UserError(f"{path} holds {size / 1e9:,.0f} GB of voxels: crop or resample it first.") from error
    view, done = content.data, 0
    while done < size:
        count = stream.readinto(view[done : done + CHUNK])
        if not count:
            raise _damaged(path, f"{done} of {size} bytes of voxels")
        done += count
    while stream.read(CHUNK):
        pass
    return content


def _scaled(stored: np.ndarray, header: Nifti1Header) -> np.ndarray:
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        return apply_read_scaling(stored, slope, intercept)


def _damaged(path: Path, error: Exception | str) -> UserError:
    return UserError(f"{path} is cut off or damaged ({first_line(error)}): copy or download it again.")


def _type_name(dtype: np.dtype) -> str:
    return {"V": "RGB", "c": "complex"}.get(dtype.kind, dtype.name)
