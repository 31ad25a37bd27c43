"""NIfTI volumes in, checked: whatever is wrong with a file is said in one sentence, before any computing."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medkd.errors import UserError

# Image and label often come from different writers; their affines then differ by float32 rounding.
AFFINE_TOLERANCE = 1e-3
# Labels stored with a NIfTI scale factor come back as 0.99999994 instead of 1.
INTEGER_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image or label with its place in space.

    Attributes:
        array: voxels `(X, Y, Z)`, float32 for an image, uint8 or int64 for a label, as stored (not reoriented).
        affine: 4x4, voxel index to patient position in mm (RAS+).
        header: the NIfTI header, for writing a result on the same grid.
        path: the file it was read from.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Nifti1Header
    path: Path

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the three array axes."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, exact for oblique and sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Patient direction in which each array axis grows, to the nearest axis, such as `LAS`."""
        return "".join(nibabel.aff2axcodes(self.affine))


def read_image(path: str | Path) -> Volume:
    """Read a 3-D NIfTI image and check that it can be worked with.

    Args:
        path: a `.nii.gz` or `.nii` file; compression is told from the content.

    Returns:
        The volume, `array` in float32 with the header's scaling applied (HU for CT).

    Raises:
        UserError: the file is missing, damaged or no NIfTI; it is not one 3-D volume of numbers; its affine cannot be
            inverted; it holds NaN or infinite values, or one value only.
    """
    path = Path(path)
    image = _open(path)
    with np.errstate(over="ignore"):  # what does not fit float32 becomes inf and is refused below
        array = np.asanyarray(image.dataobj, dtype=np.float32)
    low, high = array.min(), array.max()  # NaN spreads through both, so two passes find everything
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(array.size - np.isfinite(array).sum())
        raise UserError(f"{path} holds {bad} NaN or infinite values: replace them, by the value of air for CT.")
    if low == high:
        raise UserError(f"{path} holds the single value {low:g} everywhere: export the image again from its source.")
    return Volume(array, image.affine, image.header, path)


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
    image = _open(path)
    array = np.asanyarray(image.dataobj)
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
    # These types are in native byte order, whatever the file's: PyTorch takes no other.
    array = array.astype(np.uint8 if fits_uint8 else np.int64, copy=False)
    return Volume(array, image.affine, image.header, path)


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
            f"{label.path} is {_shape(label.array.shape)} but its image {image.path} is {_shape(image.array.shape)}: "
            "resample the label to the grid of the image."
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


def _open(path: Path) -> Nifti1Image:
    """Parse a file into an image of checked shape, type and affine; the voxels are still unread."""
    try:
        content = path.read_bytes()
        # Decompressed in one go because that verifies the checksum: nibabel stops reading before it.
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: check the path, or put the file there.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a readable NIfTI file.") from error

    if not content:
        raise _damaged(path, "it is empty")
    if content[344:347] == b"n+1":
        kind: type[Nifti1Image] = Nifti1Image
    elif content[4:7] == b"n+2":
        kind = Nifti2Image
    else:
        raise UserError(f"{path} is not a NIfTI file: convert it to .nii.gz first.")
    try:
        image = kind.from_bytes(content)
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error

    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 3:
        raise UserError(f"{path} is {len(shape)}-D ({_shape(shape)}): give one 3-D volume.")
    if min(shape) < 1:
        raise UserError(f"{path} has an empty axis ({_shape(shape)}): give one 3-D volume with voxels.")
    if dtype.kind not in "iuf":
        raise UserError(f"{path} holds {_type_name(dtype)} voxels: give one number per voxel, a grey image or a label.")
    if image.affine is None or not _invertible(image.affine):
        raise UserError(f"{path} has an affine that cannot be inverted: correct its sform, qform or voxel sizes.")
    # Counted here because reading would first allocate whatever a damaged header asks for.
    expected = cast(ArrayProxy, image.dataobj).offset + math.prod(shape) * dtype.itemsize
    if len(content) < expected:
        raise _damaged(path, f"{len(content)} of {expected} bytes")
    return image


def _damaged(path: Path, error: Exception | str) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"{path} is cut off or damaged ({reason}): copy or download it again.")


def _invertible(affine: np.ndarray) -> bool:
    # Relative to the voxel sizes, so that small voxels do not look singular.
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (sizes == 0).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _type_name(dtype: np.dtype) -> str:
    return {"V": "RGB", "c": "complex"}.get(dtype.kind, dtype.name)
